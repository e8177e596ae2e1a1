#include "benchmarks/kernels/device_benchmark.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/core/GradMode.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>

#include "benchmarks/kernels/cold_timer.h"
#include "benchmarks/kernels/decode_skeleton.h"
#include "benchmarks/kernels/device_kernels.h"
#include "benchmarks/kernels/failure.h"
#include "benchmarks/kernels/machine.h"
#include "benchmarks/kernels/peer.h"
#include "benchmarks/kernels/verification.h"

namespace spotlight::benchmarks {
namespace {

const Shape kQwen{"qwen2.5-7b", 28, 4, 128};
// Others, where they read as many bytes as Qwen2.5-7B at a million tokens, and how many tokens that are.
const std::pair<Shape, int32_t> kOtherShapes[] = {
    {{"llama-3.1-8b", 32, 8, 128}, 524288},  // G = 4
    {{"g8", 32, 4, 128}, 1048576},
    {{"g6", 24, 4, 128}, 1048576},
    {{"g3-d64", 9, 3, 64}, 2097152},
};
constexpr int32_t kPrefillTokens[] = {2048, 8192};
constexpr int64_t kReadBytes = int64_t{4} << 30;
constexpr int32_t kClusteredContext = 1 << 20;
constexpr int32_t kQuickContext = 16384;
constexpr size_t kLeastBytes = 16;  // of a plain read, beside what reads nothing
// The parts of sparse decode's skeleton that have a row of their own.
constexpr std::pair<const char*, int> kSkeletons[] = {
    {"skeleton: launch", 0},
    {"skeleton: codes", kReadCodes},
    {"skeleton: exchange", kExchangeSums},
    {"skeleton: tokens", kReadTokens},
    {"skeleton: combine", kCombineResults},
    {"skeleton: reads", kReadCodes | kReadTokens},
    {"skeleton", kWholeSkeleton},
};

class DeviceRun {
 public:
  explicit DeviceRun(const DeviceOptions& options)
      : options_(options), timer_(options.num_samples), sink_(Bytes(16)), peer_(options.peer, options.python) {}

  Report Run() {
    DescribeMachine(&report_);
    report_.num_samples = options_.num_samples;
    report_.commit = options_.commit;
    MeasureFloors();
    PrintHeader(report_);
    if (Wants("prefill")) Prefill();
    if (WantsDecode() || Wants("clustered")) Decode();
    if (Wants("shapes")) OtherShapes();
    PrintCrossover(report_.rows);
    AddPeer();
    PrintTargets(report_.rows);
    return report_;
  }

 private:
  bool Wants(const std::string& op) const {
    return options_.ops.empty() || std::find(options_.ops.begin(), options_.ops.end(), op) != options_.ops.end();
  }
  bool WantsDecode() const {
    return Wants("encode") || Wants("sparse") || Wants("attention") || Wants("dense") || Wants("skeleton");
  }

  int32_t ClusteredContext() const { return options_.quick ? kQuickContext : kClusteredContext; }

  static at::Tensor Bytes(int64_t count) { return at::zeros({count}, at::device(at::kCUDA).dtype(at::kByte)); }
  static void* stream() { return at::cuda::getCurrentCUDAStream().stream(); }

  void MeasureFloors() {
    pool_ = at::empty({kReadBytes}, at::device(at::kCUDA).dtype(at::kByte));
    pool_.view(at::kInt).random_();
    const std::vector<Timing> timings = timer_.Measure({ReadOf(kReadBytes), [] { LaunchEmpty(stream()); },
                                                        [] {
                                                          LaunchEmpty(stream());
                                                          LaunchEmpty(stream());
                                                        }});
    report_.read_gb_per_s = 1e-3 * kReadBytes / timings[0].us;
    report_.empty_launch = timings[1];
    report_.two_empty_launches = timings[2];
  }

  Operation ReadOf(size_t bytes) const {
    bytes = std::min<size_t>(bytes / 16 * 16, kReadBytes);
    return [this, bytes] {
      ReadPlainly(stream(), pool_.data_ptr(), bytes, reinterpret_cast<uint32_t*>(sink_.data_ptr()));
    };
  }

  // Operations that are timed together, and the rows that they fill.
  struct Plan {
    std::vector<Row> rows;
    std::vector<Operation> operations;  // one for each row
  };

  void Add(Plan* plan, const std::string& op, const DecodeStep& step, bool prefilter, size_t bytes, Operation run) {
    Row row;
    row.op = op;
    row.shape = step.layer().shape().name;
    row.batch = step.num_rows();
    row.context = step.context_len();
    row.prefilter = prefilter;
    row.bytes = static_cast<double>(bytes);
    row.floor_us = 1e-3 * row.bytes / report_.read_gb_per_s;
    plan->rows.push_back(row);
    plan->operations.push_back(std::move(run));
  }

  void Measure(Plan* plan, const std::vector<Operation>& anchors, bool clustered) {
    const size_t num_rows = plan->rows.size();
    std::vector<Operation> all = plan->operations;
    for (const Row& row : plan->rows) all.push_back(ReadOf(static_cast<size_t>(row.bytes)));
    all.insert(all.end(), anchors.begin(), anchors.end());
    const std::vector<Timing> timings = timer_.Measure(all);
    for (size_t i = 0; i < num_rows; ++i) {
      Row& row = plan->rows[i];
      row.clustered = clustered;
      row.time = timings[i];
      if (row.bytes <= kReadBytes) row.read = timings[num_rows + i];
      if (row.op == "encode_and_append") continue;
      // The quicker of cuDNN's two layouts.
      for (size_t a = 2 * num_rows; a < timings.size(); ++a) {
        const auto quicker = [](double* best, double us) { *best = *best == 0 ? us : std::min(*best, us); };
        quicker(&row.anchor.us, timings[a].us);
        quicker(&row.anchor.graph_us, timings[a].graph_us);
      }
    }
    report_.rows.insert(report_.rows.end(), plan->rows.begin(), plan->rows.end());
  }

  void MeasureStep(DecodeStep* step, bool only_sparse, bool clustered) {
    step->Encode();
    std::vector<std::unique_ptr<FullAttention>> anchors;
    for (const KeyOrder order : {KeyOrder::kHeadMajor, KeyOrder::kTokenMajor}) {
      anchors.push_back(std::make_unique<FullAttention>(*step, order));
    }
    if (options_.verify) {
      VerifySparse(step);
      for (const auto& anchor : anchors) VerifyDense(step, anchor.get());
    }
    Plan plan;
    if (Wants("encode") && !only_sparse) {
      Add(&plan, "encode_and_append", *step, false, step->EncodeBytes(), [step] { step->Encode(); });
    }
    for (const bool prefilter : {false, true}) {
      if (Wants("sparse") && !only_sparse) {
        Add(&plan, "sparse_decode", *step, prefilter, step->SparseBytes(prefilter), [=] { step->Sparse(prefilter); });
      }
    }
    for (const bool prefilter : {false, true}) {
      if (Wants("attention") || only_sparse) {
        Add(&plan, "sparse_attention", *step, prefilter, step->SparseBytes(prefilter),
            [=] { step->SparseAttention(prefilter); });
      }
    }
    if (Wants("dense") && !only_sparse) {
      Add(&plan, "dense_decode", *step, false, step->DenseBytes(), [step] { step->Dense(); });
    }
    std::unique_ptr<DecodeSkeleton> skeleton;
    if (Wants("skeleton") && !only_sparse) {
      skeleton = std::make_unique<DecodeSkeleton>(step);
      const auto bytes = [&](int parts) { return std::max(skeleton->Bytes(parts), kLeastBytes); };
      for (const auto& [op, parts] : kSkeletons) {
        Add(&plan, op, *step, false, bytes(parts), [run = skeleton.get(), parts = parts] { run->Run(parts); });
      }
      Add(&plan, kSkeletonAttention, *step, false, bytes(kWholeSkeleton),
          [run = skeleton.get()] { run->RunBesideEncode(); });
    }
    std::vector<Operation> anchor_runs;
    for (const auto& anchor : anchors) anchor_runs.push_back([run = anchor.get()] { run->Run(); });
    Measure(&plan, anchor_runs, clustered);
  }

  void PrintSince(size_t begin, const std::string& title) {
    PrintTable(title, std::vector<Row>(report_.rows.begin() + begin, report_.rows.end()));
    std::fflush(stdout);
  }

  void Decode() {
    if (options_.verify) VerifyEncoding(kQwen);
    std::vector<std::pair<int32_t, int32_t>> steps;
    if (WantsDecode()) {
      for (const int32_t context : options_.contexts) steps.emplace_back(1, context);
      steps.insert(steps.end(), options_.batches.begin(), options_.batches.end());
    }
    int64_t num_tokens = Wants("clustered") ? ClusteredContext() : 0;
    for (const auto& [batch, context] : steps) num_tokens = std::max(num_tokens, int64_t{batch} * context);
    DeviceLayer layer(kQwen, num_tokens);
    layer.Fill(options_.encode_codes);
    if (WantsDecode()) {
      const size_t begin = report_.rows.size();
      for (const auto& [batch, context] : steps) {
        DecodeStep step(layer, batch, context);
        MeasureStep(&step, false, false);
      }
      PrintSince(begin, "Decode, one layer:");
    }
    if (!Wants("clustered")) return;
    // Hits in one twentieth of the context: work must still be shared evenly.
    const size_t begin = report_.rows.size();
    const int64_t context = ClusteredContext(), first = context * 2 / 5, count = context / 20;
    DecodeStep step(layer, 1, static_cast<int32_t>(context));
    layer.FillCluster(first, count, step.MeanQuery(), static_cast<int32_t>(context) - 1);
    const at::Tensor selected = step.SparseAttentionSelecting(false);
    const at::Tensor inside = at::bitwise_and(selected.ge(first), selected.lt(first + count));
    const double share = inside.to(at::kDouble).mean().item<double>();
    if (share < 0.9) Fail("the cluster holds only " + std::to_string(share) + " of the selected tokens");
    MeasureStep(&step, true, true);
    PrintSince(begin, "* One twentieth of the context holds " + std::to_string(static_cast<int>(100 * share)) +
                          "% of the selected tokens:");
  }

  void OtherShapes() {
    const size_t begin = report_.rows.size();
    for (const auto& [shape, full_context] : kOtherShapes) {
      const int32_t context = options_.quick ? kQuickContext : full_context;
      if (options_.verify) VerifyEncoding(shape);
      DeviceLayer layer(shape, context);
      layer.Fill(options_.encode_codes);
      DecodeStep step(layer, 1, context);
      MeasureStep(&step, true, false);
    }
    PrintSince(begin, "Other shapes:");
  }

  void Prefill() {
    std::printf(
        "Prefill of a chunk, one layer: encode_and_append beside the layer's matrix products and the chunk's "
        "attention to itself:\n");
    for (const int32_t num_tokens : kPrefillTokens) {
      DeviceLayer layer(kQwen, num_tokens);
      const at::TensorOptions bf16 = layer.kv().options();
      const at::Tensor q = at::randn({num_tokens, kQwen.num_q_heads, kQwen.head_dim}, bf16);
      const at::Tensor k = at::randn({num_tokens, kQwen.num_kv_heads, kQwen.head_dim}, bf16);
      const at::Tensor v = at::randn_like(k), q_out = at::empty_like(q);
      const at::Tensor positions = at::arange(num_tokens, bf16.dtype(at::kInt));
      const at::Tensor slots = layer.Slots(0, num_tokens);
      PrefillLayer rest(kQwen, num_tokens);
      const std::vector<Timing> timings = timer_.Measure(
          {[&] { Check(kernels::EncodeAndAppend(layer.EncodeParams(q, k, v, positions, slots, q_out))); },
           [&] { rest.Run(); }});
      Row row;
      row.op = "encode_and_append_prefill";
      row.shape = kQwen.name;
      row.batch = 1;
      row.context = num_tokens;
      row.time = timings[0];
      row.layer_us = timings[1].us;
      row.bytes = 2.0 * (q.nbytes() + k.nbytes() + v.nbytes()) + layer.key_weight_bytes();
      row.floor_us = 1e-3 * row.bytes / report_.read_gb_per_s;
      report_.rows.push_back(row);
      std::printf("%6d tokens: %.1f us (graph %.1f), the rest %.1f us, %.2f%%\n", num_tokens, row.time.us,
                  row.time.graph_us, row.layer_us, 100 * row.time.us / row.layer_us);
    }
    std::printf("\n");
  }

  void AddPeer() {
    std::vector<int32_t> contexts;
    for (const Row& row : report_.rows) {
      if (row.op == "sparse_attention" && row.shape == kQwen.name && row.batch == 1 && !row.clustered &&
          !row.prefilter) {
        contexts.push_back(row.context);
      }
    }
    const std::map<int32_t, double> times = peer_.Measure(contexts, options_.num_samples);
    if (times.empty()) return;
    report_.peer_commit = peer_.commit();
    std::vector<Row> compared;
    for (Row& row : report_.rows) {
      const auto time = times.find(row.context);
      if (row.op != "sparse_attention" || row.shape != kQwen.name || row.batch != 1 || row.clustered ||
          time == times.end()) {
        continue;
      }
      row.peer_us = time->second;
      compared.push_back(row);
    }
    PrintTable("Beside the public kernels (commit " + report_.peer_commit + "):", compared);
  }

  const DeviceOptions options_;
  ColdTimer timer_;
  at::Tensor sink_, pool_;
  Peer peer_;
  Report report_;
};

}  // namespace

Report RunOnDevice(const DeviceOptions& options) {
  if (!HasDevice()) Fail("no CUDA device");
  at::manual_seed(7);
  const c10::NoGradGuard no_gradients;
  const c10::cuda::CUDAStreamGuard guard(at::cuda::getStreamFromPool());
  return DeviceRun(options).Run();
}

}  // namespace spotlight::benchmarks
