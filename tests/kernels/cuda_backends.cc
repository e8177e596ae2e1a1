#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "tests/kernels/backend.h"

namespace spotlight::kernels::testing {
namespace {

// Mirrors the arena on the device, runs the public operation there, and copies the arena back. Without a device every
// run fails, and with it the test.
class CudaBackend : public Backend {
 public:
  // With `in_graph` the operation is captured once and its graph launched, twice where that leaves the same.
  explicit CudaBackend(bool in_graph) : in_graph_(in_graph) {}
  ~CudaBackend() override {
    cudaFree(device_);
    cudaFree(workspace_);
  }

  std::string name() const override { return in_graph_ ? "cuda_graph" : "cuda"; }

  absl::Status Run(EncodeAndAppendParams params, Arena* arena) override {
    if (absl::Status status = Upload(arena); !status.ok()) return status;
    HashWeights hash;
    if (params.hash != nullptr) {
      hash = *params.hash;
      Move(arena, &hash.key);
      Move(arena, &hash.query);
      params.hash = &hash;
    }
    Move(arena, &params.q, &params.k, &params.v, &params.q_bias, &params.k_bias, &params.v_bias, &params.inv_freq,
         &params.positions, &params.slots, &params.q_out, &params.planes, &params.plane_unit);
    Move(arena, &params.pages);
    return Execute(&params, arena);
  }

  absl::Status Run(SparseDecodeParams params, Arena* arena) override {
    if (absl::Status status = Upload(arena); !status.ok()) return status;
    Move(arena, &params.q, &params.planes, &params.page_table, &params.context_len, &params.num_select, &params.out,
         &params.selected, &params.num_selected);
    Move(arena, &params.pages);
    params.workspace_bytes = SparseDecodeWorkspaceBytes(DeviceKind::kCuda, params.num_rows, params.max_context,
                                                        params.num_q_heads, params.num_kv_heads, params.head_dim);
    return ExecuteWithWorkspace(&params, arena);
  }

  absl::Status Run(DenseDecodeParams params, Arena* arena) override {
    if (absl::Status status = Upload(arena); !status.ok()) return status;
    Move(arena, &params.q, &params.page_table, &params.context_len, &params.out);
    Move(arena, &params.pages);
    params.workspace_bytes = DenseDecodeWorkspaceBytes(DeviceKind::kCuda, params.num_rows, params.max_context,
                                                       params.num_q_heads, params.num_kv_heads, params.head_dim);
    return ExecuteWithWorkspace(&params, arena);
  }

  absl::Status Run(AddRmsNormParams params, Arena* arena) override {
    if (absl::Status status = Upload(arena); !status.ok()) return status;
    Move(arena, &params.x, &params.delta, &params.weight, &params.out);
    return Execute(&params, arena);
  }

  absl::Status Run(SiluMulParams params, Arena* arena) override {
    if (absl::Status status = Upload(arena); !status.ok()) return status;
    Move(arena, &params.gate_up, &params.out);
    return Execute(&params, arena);
  }

 private:
  static absl::Status Call(const EncodeAndAppendParams& params) { return EncodeAndAppend(params); }
  static absl::Status Call(const SparseDecodeParams& params) { return SparseDecode(params); }
  static absl::Status Call(const DenseDecodeParams& params) { return DenseDecode(params); }
  static absl::Status Call(const AddRmsNormParams& params) { return AddRmsNorm(params); }
  static absl::Status Call(const SiluMulParams& params) { return SiluMul(params); }

  // Asking for stage times synchronises, which a capture cannot do.
  static bool Synchronises(const SparseDecodeParams& params) { return params.stage_seconds != nullptr; }
  template <class Params>
  static bool Synchronises(const Params&) {
    return false;
  }

  // A second launch would add delta again.
  static int NumLaunches(const AddRmsNormParams& params) { return params.delta == nullptr ? 2 : 1; }
  template <class Params>
  static int NumLaunches(const Params&) {
    return 2;
  }

  template <class Params>
  static absl::Status CallInGraph(Params* params) {
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    absl::Status status = ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    status.Update(ToStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal)));
    params->execution.stream = stream;
    status.Update(Call(*params));
    status.Update(ToStatus(cudaStreamEndCapture(stream, &graph)));
    if (status.ok()) status.Update(ToStatus(cudaGraphInstantiate(&executable, graph, 0)));
    for (int i = 0; status.ok() && i < NumLaunches(*params); ++i) {
      status.Update(ToStatus(cudaGraphLaunch(executable, stream)));
    }
    status.Update(ToStatus(cudaStreamSynchronize(stream)));
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    return status;
  }

  static absl::Status ToStatus(cudaError_t error) {
    if (error == cudaSuccess) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("CUDA: ", cudaGetErrorString(error)));
  }

  static absl::Status Reserve(size_t bytes, void** memory, size_t* reserved) {
    if (bytes <= *reserved) return absl::OkStatus();
    cudaFree(*memory);
    *memory = nullptr;
    *reserved = 0;
    absl::Status status = ToStatus(cudaMalloc(memory, bytes));
    if (status.ok()) *reserved = bytes;
    return status;
  }

  absl::Status Upload(Arena* arena) {
    if (absl::Status status = Reserve(arena->used(), &device_, &device_bytes_); !status.ok()) return status;
    return ToStatus(cudaMemcpy(device_, arena->base(), arena->used(), cudaMemcpyHostToDevice));
  }

  template <class... Pointers>
  void Move(Arena* arena, Pointers*... pointers) {
    (MoveOne(arena, pointers), ...);
  }
  template <class T>
  void MoveOne(Arena* arena, T** pointer) {
    if (*pointer == nullptr) return;
    const auto offset = reinterpret_cast<const std::byte*>(*pointer) - arena->base();
    *pointer = reinterpret_cast<T*>(static_cast<std::byte*>(device_) + offset);
  }
  void MoveOne(Arena* arena, LayerPages* pages) { Move(arena, &pages->kv, &pages->codes, &pages->prefix); }
  void MoveOne(Arena* arena, EncoderWeights* encoder) {
    Move(arena, &encoder->w1, &encoder->b1, &encoder->w2, &encoder->b2, &encoder->skip);
  }

  template <class Params>
  absl::Status ExecuteWithWorkspace(Params* params, Arena* arena) {
    if (absl::Status status = Reserve(params->workspace_bytes, &workspace_, &workspace_bytes_); !status.ok()) {
      return status;
    }
    // Garbage from the last call must not matter.
    if (absl::Status status = ToStatus(cudaMemset(workspace_, 0xee, params->workspace_bytes)); !status.ok()) {
      return status;
    }
    params->workspace = workspace_;
    return Execute(params, arena);
  }

  template <class Params>
  absl::Status Execute(Params* params, Arena* arena) {
    params->execution.device = DeviceKind::kCuda;
    const bool in_graph = in_graph_ && !Synchronises(*params);
    if (absl::Status status = in_graph ? CallInGraph(params) : Call(*params); !status.ok()) return status;
    if (absl::Status status = ToStatus(cudaDeviceSynchronize()); !status.ok()) return status;
    return ToStatus(cudaMemcpy(arena->base(), device_, arena->used(), cudaMemcpyDeviceToHost));
  }

  const bool in_graph_;
  void *device_ = nullptr, *workspace_ = nullptr;
  size_t device_bytes_ = 0, workspace_bytes_ = 0;
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
