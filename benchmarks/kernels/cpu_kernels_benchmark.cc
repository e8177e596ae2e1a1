// Times of the kernels on the CPU, one layer and one decode step each, at every instruction set of the machine.
//
//   bazel run -c opt //benchmarks/kernels:cpu_kernels_benchmark -- --benchmark_filter=sparse
//
// `cached` reads the same layer again and again; otherwise the calls go round as many layers as exceed the last-level
// cache, as a model does. best_*_us are the quickest calls, for machines that are not idle. bytes_per_second counts
// what the operation's header says it reads.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <vector>

#include "benchmarks/kernels/spinning_pool.h"
#include "kernels/budget.h"
#include "kernels/cpu/dense_decode.h"
#include "kernels/cpu/encode_and_append.h"
#include "kernels/cpu/level.h"
#include "kernels/cpu/pointwise.h"
#include "kernels/cpu/prefill_attention.h"
#include "kernels/cpu/sparse_decode.h"
#include "kernels/reference/sparse_decode.h"

namespace spotlight::kernels {
namespace {

using benchmarks::SpinningPool;

constexpr size_t kColdBytes = size_t{256} << 20;

struct Shape {
  const char* name;
  int32_t num_kv_heads, group, head_dim, context_len;
};
constexpr Shape kShapes[] = {
    {"smollm2_135m_512", 3, 3, 64, 512},
    {"smollm2_135m_8k", 3, 3, 64, 8000},
    {"qwen2_7b_32k", 4, 7, 128, 32768},
};

// Several layers of one sequence in bf16; codes and planes at random.
class Layers {
 public:
  Layers(const Shape& shape, bool cached) : shape_(shape) {
    const int64_t pages = (shape.context_len + kPageTokens - 1) / kPageTokens;
    const int64_t entries = pages * shape.num_kv_heads * kPageTokens;
    const size_t layer_bytes = entries * (4 * shape.head_dim + 20);
    num_layers_ = cached ? 1 : static_cast<int>(kColdBytes / layer_bytes + 1);
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    kv_.resize(num_layers_ * entries * 2 * shape.head_dim);
    for (size_t i = 0; i < kv_.size(); ++i) kv_[i] = static_cast<uint16_t>(0x3c00 + random() % 0x400);
    codes_.resize(num_layers_ * entries * 4);
    for (uint32_t& word : codes_) word = random();
    prefix_.resize(num_layers_ * entries);
    for (size_t i = 0; i < prefix_.size(); ++i) prefix_[i] = codes_[4 * i];
    planes_.resize(shape.num_kv_heads * 16);
    for (uint32_t& word : planes_) word = random();
    q_.assign(shape.num_kv_heads * shape.group * shape.head_dim, 0x3d80);
    out_ = q_;
    for (int64_t i = 0; i < pages; ++i) page_table_.push_back(static_cast<int32_t>(i));
    num_select_ = NumSelected(Budget(), shape.context_len);
    entries_ = entries;
  }

  SparseDecodeParams Sparse(int layer) {
    SparseDecodeParams params;
    Fill(layer, &params);
    params.planes = planes_.data();
    params.num_select = &num_select_;
    return params;
  }
  DenseDecodeParams Dense(int layer) {
    DenseDecodeParams params;
    Fill(layer, &params);
    return params;
  }
  int num_layers() const { return num_layers_; }
  double KvBytes(double tokens) const { return tokens * shape_.num_kv_heads * 4 * shape_.head_dim; }
  double CodeBytes() const { return 16.0 * shape_.num_kv_heads * shape_.context_len; }
  int32_t num_attended() const {
    return num_select_ == 0 ? shape_.context_len : num_select_ + kSinkTokens + kRecentTokens;
  }

 private:
  template <class Params>
  void Fill(int layer, Params* params) {
    layer %= num_layers_;
    params->dtype = DType::kBF16;
    params->num_rows = 1;
    params->num_q_heads = shape_.num_kv_heads * shape_.group;
    params->num_kv_heads = shape_.num_kv_heads;
    params->head_dim = shape_.head_dim;
    params->softmax_scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    params->q = q_.data();
    params->pages = {kv_.data() + layer * entries_ * 2 * shape_.head_dim, codes_.data() + layer * entries_ * 4,
                     prefix_.data() + layer * entries_, static_cast<int32_t>(page_table_.size())};
    params->page_table = page_table_.data();
    params->max_pages = static_cast<int32_t>(page_table_.size());
    params->context_len = &shape_.context_len;
    params->max_context = shape_.context_len;
    params->out = out_.data();
  }

  const Shape shape_;
  int num_layers_ = 0;
  int64_t entries_ = 0;
  std::vector<uint16_t> kv_, q_, out_;
  std::vector<uint32_t> codes_, prefix_, planes_;
  std::vector<int32_t> page_table_;
  int32_t num_select_ = 0;
};

bool all_verified = true;

// The selection at this shape equals the reference's, or the benchmark does not run.
bool Verified(Layers* layers, cpu::Level level, bool prefilter) {
  SparseDecodeParams params = layers->Sparse(0);
  params.prefilter = prefilter;
  const int32_t heads = params.num_kv_heads;
  params.max_select = params.max_context;
  std::vector<int32_t> expected(heads * params.max_select), selected(expected.size());
  params.selected = selected.data();
  cpu::SparseDecode(params, level);
  for (int32_t head = 0; head < heads; ++head) {
    const std::vector<int32_t> best = reference::SelectTokens(params, 0, head);
    if (!std::equal(best.begin(), best.end(), selected.begin() + head * params.max_select)) return false;
  }
  return true;
}

void RunSparse(benchmark::State& state, const Shape& shape, cpu::Level level, int threads, bool cached,
               bool prefilter) {
  Layers layers(shape, cached);
  if (!Verified(&layers, level, prefilter)) {
    all_verified = false;
    return state.SkipWithError("selection differs from the reference");
  }
  SpinningPool pool(threads);
  SparseDecodeStages best{1, 1, 1};
  int layer = 0;
  for (auto _ : state) {
    SparseDecodeParams params = layers.Sparse(layer++);
    params.prefilter = prefilter;
    params.execution.parallel_for = threads > 1 ? pool.parallel_for() : nullptr;
    SparseDecodeStages stages;
    params.stage_seconds = &stages;
    cpu::SparseDecode(params, level);
    best.score = std::min(best.score, stages.score);
    best.select = std::min(best.select, stages.select);
    best.attend = std::min(best.attend, stages.attend);
  }
  const double iterations = static_cast<double>(state.iterations());
  state.counters["best_score_us"] = 1e6 * best.score;
  state.counters["best_select_us"] = 1e6 * best.select;
  state.counters["best_attend_us"] = 1e6 * best.attend;
  state.SetBytesProcessed(static_cast<int64_t>(
      iterations * (layers.CodeBytes() * (prefilter ? 0.25 : 1) + layers.KvBytes(layers.num_attended()))));
}

void RunDense(benchmark::State& state, const Shape& shape, cpu::Level level, int threads, bool cached) {
  Layers layers(shape, cached);
  SpinningPool pool(threads);
  int layer = 0;
  double best = 1;
  for (auto _ : state) {
    DenseDecodeParams params = layers.Dense(layer++);
    params.execution.parallel_for = threads > 1 ? pool.parallel_for() : nullptr;
    const auto start = std::chrono::steady_clock::now();
    cpu::DenseDecode(params, level);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  state.counters["best_us"] = 1e6 * best;
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * layers.KvBytes(shape.context_len)));
}

// Encoders of the default sizes in bf16, `num_tokens` tokens.
void RunEncode(benchmark::State& state, const Shape& shape, cpu::Level level, int threads, int num_tokens,
               bool planes) {
  const int64_t heads = shape.num_kv_heads, dim = shape.head_dim, inputs = shape.group * dim;
  const int64_t key_weights = heads * (dim * 128 + 128 * 128 + dim * 128);
  const int64_t query_weights = heads * (inputs * 256 + 256 * 128 + inputs * 128);
  const int num_layers = static_cast<int>(kColdBytes / (2 * (key_weights + query_weights)) + 1);
  std::vector<uint16_t> key(num_layers * key_weights, 0x3c10), query(num_layers * query_weights, 0x3c10);
  std::vector<uint16_t> bias(heads * 256, 0x3c00), x(num_tokens * (inputs + 2 * dim) * heads, 0x3d80), q_out(x.size());
  std::vector<float> inv_freq(dim / 2, 0.1f), unit(num_tokens * heads);
  std::vector<int32_t> positions(num_tokens, 77);
  std::vector<int64_t> slots(num_tokens);
  for (int i = 0; i < num_tokens; ++i) slots[i] = i;
  const int64_t pages = num_tokens / kPageTokens + 1, entries = pages * heads * kPageTokens;
  std::vector<uint16_t> kv(entries * 2 * dim);
  std::vector<uint32_t> codes(entries * 4), prefix(entries), bits(num_tokens * heads * 16);
  SpinningPool pool(threads);
  int layer = 0;
  for (auto _ : state) {
    const uint16_t* k = key.data() + layer % num_layers * key_weights;
    const uint16_t* q = query.data() + layer % num_layers * query_weights;
    ++layer;
    HashWeights hash;
    hash.weight_dtype = DType::kBF16;
    hash.key = {128, k, bias.data(), k + heads * dim * 128, bias.data(), k + heads * (dim + 128) * 128};
    hash.query = {256, q, bias.data(), q + heads * inputs * 256, bias.data(), q + heads * (inputs + 128) * 256};
    EncodeAndAppendParams params;
    params.execution.parallel_for = threads > 1 ? pool.parallel_for() : nullptr;
    params.dtype = DType::kBF16;
    params.num_tokens = num_tokens;
    params.num_plane_tokens = planes ? num_tokens : 0;
    params.num_q_heads = static_cast<int32_t>(heads * shape.group);
    params.num_kv_heads = shape.num_kv_heads;
    params.head_dim = shape.head_dim;
    params.q = x.data();
    params.k = params.v = x.data() + heads * inputs;
    params.q_stride = params.k_stride = params.v_stride = heads * (inputs + 2 * dim);
    params.inv_freq = inv_freq.data();
    params.positions = positions.data();
    params.slots = slots.data();
    params.hash = &hash;
    params.pages = {kv.data(), codes.data(), prefix.data(), static_cast<int32_t>(pages)};
    params.q_out = q_out.data();
    params.planes = bits.data();
    params.plane_unit = unit.data();
    cpu::EncodeAndAppend(params, level);
  }
  state.SetBytesProcessed(state.iterations() * 2 * (key_weights + (planes ? query_weights : 0)));
}

// One layer's pointwise operations at SmolLM2-135M's widths, bf16.
void RunAddRmsNorm(benchmark::State& state, cpu::Level level, int threads, int num_tokens) {
  constexpr int kHidden = 576;
  std::vector<uint16_t> x(num_tokens * kHidden, 0x3d80), delta(x), weight(kHidden, 0x3f80), out(x);
  SpinningPool pool(threads);
  AddRmsNormParams params;
  params.execution.parallel_for = threads > 1 ? pool.parallel_for() : nullptr;
  params.dtype = DType::kBF16;
  params.num_tokens = num_tokens;
  params.hidden = kHidden;
  params.eps = 1e-5f;
  params.x = x.data();
  params.delta = delta.data();
  params.weight = weight.data();
  params.out = out.data();
  for (auto _ : state) cpu::AddRmsNorm(params, level);
  state.SetBytesProcessed(state.iterations() * 4 * static_cast<int64_t>(x.size() * sizeof(uint16_t)));
}

void RunSiluMul(benchmark::State& state, cpu::Level level, int threads, int num_tokens) {
  constexpr int kIntermediate = 1536;
  std::vector<uint16_t> gate_up(num_tokens * 2 * kIntermediate, 0x3d80), out(num_tokens * kIntermediate);
  SpinningPool pool(threads);
  SiluMulParams params;
  params.execution.parallel_for = threads > 1 ? pool.parallel_for() : nullptr;
  params.dtype = DType::kBF16;
  params.num_tokens = num_tokens;
  params.intermediate = kIntermediate;
  params.gate_up = gate_up.data();
  params.out = out.data();
  for (auto _ : state) cpu::SiluMul(params, level);
  state.SetBytesProcessed(state.iterations() * 3 * static_cast<int64_t>(out.size() * sizeof(uint16_t)));
}

// One layer's attention of a prompt of `prompt` tokens in chunks of 512.
void RunPrefill(benchmark::State& state, const Shape& shape, int threads, int32_t prompt) {
  constexpr int32_t kChunk = 512;
  const int64_t q_row = int64_t{shape.num_kv_heads} * shape.group * shape.head_dim;
  const int32_t num_pages = (prompt + kPageTokens - 1) / kPageTokens;
  std::mt19937 random(5);
  const auto fill = [&](std::vector<uint16_t>* values) {  // +-[0.5, 2)
    for (uint16_t& value : *values) value = static_cast<uint16_t>((random() & 0x8000u) + 0x3f00 + random() % 0x100);
  };
  std::vector<uint16_t> q(prompt * q_row), out(q.size());
  std::vector<uint16_t> kv(int64_t{num_pages} * shape.num_kv_heads * kPageTokens * 2 * shape.head_dim);
  fill(&q);
  fill(&kv);
  std::vector<int32_t> page_table(num_pages);
  for (int32_t i = 0; i < num_pages; ++i) page_table[i] = i;
  SpinningPool pool(threads);
  double best = 1e9;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    for (int32_t begin = 0; begin < prompt; begin += kChunk) {
      PrefillAttentionParams params;
      params.execution.parallel_for = threads > 1 ? pool.parallel_for() : nullptr;
      params.num_tokens = std::min(kChunk, prompt - begin);
      params.num_q_heads = shape.num_kv_heads * shape.group;
      params.num_kv_heads = shape.num_kv_heads;
      params.head_dim = shape.head_dim;
      params.softmax_scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
      params.q = q.data() + begin * q_row;
      params.pages = {kv.data(), nullptr, nullptr, num_pages};
      params.page_table = page_table.data();
      params.max_pages = num_pages;
      params.context_len = begin + params.num_tokens;
      params.out = out.data() + begin * q_row;
      cpu::PrefillAttention(params, *cpu::BestPrefillKernels());
    }
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  const double gflop = 4e-9 * 0.5 * prompt * (prompt + 1.0) * static_cast<double>(q_row);
  state.counters["GFLOP/s"] = benchmark::Counter(gflop, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["best_GFLOP/s"] = gflop / best;
}

// What the machine gives: the bound of everything above.
void RunRead(benchmark::State& state, int threads, bool cached) {
  const std::vector<uint64_t> memory((cached ? size_t{4} << 20 : kColdBytes) / sizeof(uint64_t), 1);
  SpinningPool pool(threads);
  const int64_t pieces = 64, share = static_cast<int64_t>(memory.size()) / pieces;
  for (auto _ : state) {
    std::vector<uint64_t> sums(pieces);
    (*pool.parallel_for())(pieces, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        const uint64_t* words = memory.data() + piece * share;
        uint64_t sum[8] = {};
        for (int64_t i = 0; i + 8 <= share; i += 8) {
          for (int lane = 0; lane < 8; ++lane) sum[lane] += words[i + lane];
        }
        for (const uint64_t lane : sum) sums[piece] += lane;
      }
    });
    benchmark::DoNotOptimize(sums);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(memory.size() * sizeof(uint64_t)));
}

void RegisterAll() {
  for (const int threads : {1, 2}) {
    for (const bool cached : {false, true}) {
      const std::string name = "memory_read/threads:" + std::to_string(threads) + (cached ? "/cached" : "");
      benchmark::RegisterBenchmark(name.c_str(), RunRead, threads, cached)->UseRealTime();
    }
  }
  for (const int threads : {1, 2}) {
    if (cpu::BestPrefillKernels() == nullptr) break;
    for (const Shape& shape : kShapes) {
      const int32_t prompt = std::min(shape.context_len, 8192);
      const std::string name = std::string("prefill_attention/") + shape.name +
                               "/prompt:" + std::to_string(prompt == 512 ? 2048 : prompt) +
                               "/threads:" + std::to_string(threads);
      benchmark::RegisterBenchmark(name.c_str(), RunPrefill, shape, threads, prompt == 512 ? 2048 : prompt)
          ->UseRealTime();
    }
  }
  for (const cpu::Level level : cpu::SupportedLevels()) {
    for (const int threads : {1, 2}) {
      for (const int num_tokens : {1, 512}) {
        const std::string suffix = "/tokens:" + std::to_string(num_tokens) + "/" + cpu::LevelName(level) +
                                   "/threads:" + std::to_string(threads);
        benchmark::RegisterBenchmark(("add_rms_norm" + suffix).c_str(), RunAddRmsNorm, level, threads, num_tokens)
            ->UseRealTime();
        benchmark::RegisterBenchmark(("silu_mul" + suffix).c_str(), RunSiluMul, level, threads, num_tokens)
            ->UseRealTime();
      }
    }
    for (const Shape& shape : kShapes) {
      for (const int threads : {1, 2}) {
        const std::string suffix =
            std::string("/") + shape.name + "/" + cpu::LevelName(level) + "/threads:" + std::to_string(threads);
        for (const bool cached : {false, true}) {
          const std::string place = cached ? "/cached" : "";
          benchmark::RegisterBenchmark(("dense" + suffix + place).c_str(), RunDense, shape, level, threads, cached)
              ->UseRealTime();
          if (NumSelected(Budget(), shape.context_len) == 0) continue;
          benchmark::RegisterBenchmark(("sparse" + suffix + place).c_str(), RunSparse, shape, level, threads, cached,
                                       false)
              ->UseRealTime();
          benchmark::RegisterBenchmark(("sparse_prefilter" + suffix + place).c_str(), RunSparse, shape, level, threads,
                                       cached, true)
              ->UseRealTime();
        }
        benchmark::RegisterBenchmark(("encode_decode" + suffix).c_str(), RunEncode, shape, level, threads, 1, true)
            ->UseRealTime();
        benchmark::RegisterBenchmark(("encode_prefill_512" + suffix).c_str(), RunEncode, shape, level, threads, 512,
                                     false)
            ->UseRealTime();
      }
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  spotlight::kernels::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return spotlight::kernels::all_verified ? 0 : 1;
}
