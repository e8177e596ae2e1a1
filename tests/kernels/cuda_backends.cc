#include <cuda_runtime_api.h>

#include <algorithm>

#include "tests/kernels/backend.h"
#include "tests/kernels/captured_graph.h"
#include "tests/kernels/device_arena.h"

namespace spotlight::kernels::testing {
namespace {

// Mirrors the arena on the device, runs the public operation there, and copies the arena back. Without a device every
// run fails, and with it the test. A workspace is zeroed when it is allocated and never again: calls of every shape
// that the tests of this program make follow one another in it.
class CudaBackend : public Backend {
 public:
  // With `in_graph` the operation is captured once and its graph launched, twice where that leaves the same.
  explicit CudaBackend(bool in_graph) : in_graph_(in_graph) {}

  std::string name() const override { return in_graph_ ? "cuda_graph" : "cuda"; }

  absl::Status Run(EncodeAndAppendParams params, Arena* arena) override {
    if (absl::Status status = device_.Upload(arena); !status.ok()) return status;
    HashWeights hash;
    if (params.hash != nullptr) {
      hash = *params.hash;
      device_.Move(&hash.key, &hash.query);
      params.hash = &hash;
    }
    device_.Move(&params.q, &params.k, &params.v, &params.q_bias, &params.k_bias, &params.v_bias, &params.inv_freq,
                 &params.positions, &params.slots, &params.q_out, &params.planes, &params.plane_unit, &params.start_ns,
                 &params.pages);
    return Execute(&params, arena);
  }

  absl::Status Run(SparseDecodeParams params, Arena* arena) override {
    if (absl::Status status = device_.Upload(arena); !status.ok()) return status;
    device_.Move(&params.q, &params.planes, &params.page_table, &params.context_len, &params.num_select, &params.out,
                 &params.selected, &params.num_selected, &params.stage_seconds, &params.pages);
    params.workspace_bytes = SparseDecodeWorkspaceBytes(DeviceKind::kCuda, params.num_rows, params.max_context,
                                                        params.num_q_heads, params.num_kv_heads, params.head_dim);
    return ExecuteIn(&sparse_workspace_, &params, arena);
  }

  absl::Status Run(DenseDecodeParams params, Arena* arena) override {
    if (absl::Status status = device_.Upload(arena); !status.ok()) return status;
    device_.Move(&params.q, &params.page_table, &params.context_len, &params.out, &params.pages);
    params.workspace_bytes = DenseDecodeWorkspaceBytes(DeviceKind::kCuda, params.num_rows, params.max_context,
                                                       params.num_q_heads, params.num_kv_heads, params.head_dim);
    return ExecuteIn(&dense_workspace_, &params, arena);
  }

  // In a graph the workspace holds two rows: the rest goes in further passes.
  absl::Status Run(RetrievalQualityParams params, Arena* arena) override {
    if (absl::Status status = device_.Upload(arena); !status.ok()) return status;
    device_.Move(&params.q, &params.page_table, &params.context_len, &params.num_select, &params.selected,
                 &params.num_selected, &params.sparse_out, &params.recall, &params.iou, &params.candidate_mass,
                 &params.oracle_mass, &params.attention_mass, &params.output_error, &params.pages);
    params.workspace_bytes =
        RetrievalQualityWorkspaceBytes(DeviceKind::kCuda, in_graph_ ? std::min(2, params.num_rows) : params.num_rows,
                                       params.max_context, params.num_q_heads, params.num_kv_heads, params.head_dim);
    return ExecuteIn(&quality_workspace_, &params, arena);
  }

  absl::Status Run(AddRmsNormParams params, Arena* arena) override {
    if (absl::Status status = device_.Upload(arena); !status.ok()) return status;
    device_.Move(&params.x, &params.delta, &params.weight, &params.out);
    return Execute(&params, arena);
  }

  absl::Status Run(SiluMulParams params, Arena* arena) override {
    if (absl::Status status = device_.Upload(arena); !status.ok()) return status;
    device_.Move(&params.gate_up, &params.out);
    return Execute(&params, arena);
  }

 private:
  static absl::Status Call(const EncodeAndAppendParams& params) { return EncodeAndAppend(params); }
  static absl::Status Call(const SparseDecodeParams& params) { return SparseDecode(params); }
  static absl::Status Call(const DenseDecodeParams& params) { return DenseDecode(params); }
  static absl::Status Call(const RetrievalQualityParams& params) { return RetrievalQuality(params); }
  static absl::Status Call(const AddRmsNormParams& params) { return AddRmsNorm(params); }
  static absl::Status Call(const SiluMulParams& params) { return SiluMul(params); }

  // A second launch would add delta again.
  static int NumLaunches(const AddRmsNormParams& params) { return params.delta == nullptr ? 2 : 1; }
  template <class Params>
  static int NumLaunches(const Params&) {
    return 2;
  }

  template <class Params>
  static absl::Status CallInGraph(Params params) {
    CapturedGraph graph;
    absl::Status status = graph.Capture([&](void* stream) {
      params.execution.stream = stream;
      return Call(params);
    });
    for (int i = 0; status.ok() && i < NumLaunches(params); ++i) status.Update(graph.Run());
    return status;
  }

  template <class Params>
  absl::Status ExecuteIn(DeviceWorkspace* workspace, Params* params, Arena* arena) {
    if (absl::Status status = workspace->Prepare(params->workspace_bytes); !status.ok()) return status;
    params->workspace = workspace->data();
    if (absl::Status status = Execute(params, arena); !status.ok()) return status;
    return workspace->Check();
  }

  template <class Params>
  absl::Status Execute(Params* params, Arena* arena) {
    params->execution.device = DeviceKind::kCuda;
    if (absl::Status status = in_graph_ ? CallInGraph(*params) : Call(*params); !status.ok()) return status;
    if (absl::Status status = ToStatus(cudaDeviceSynchronize()); !status.ok()) return status;
    return device_.Download(arena);
  }

  const bool in_graph_;
  DeviceArena device_;
  DeviceWorkspace sparse_workspace_, dense_workspace_, quality_workspace_;
};

}  // namespace

const std::vector<std::unique_ptr<Backend>>& Backends() {
  static const auto* const backends = [] {
    auto* all = new std::vector<std::unique_ptr<Backend>>;
    for (const bool in_graph : {false, true}) all->push_back(std::make_unique<CudaBackend>(in_graph));
    return all;
  }();
  return *backends;
}

}  // namespace spotlight::kernels::testing
