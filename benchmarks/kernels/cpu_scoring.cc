#include "benchmarks/kernels/cpu_scoring.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <numeric>
#include <random>
#include <thread>

#include "benchmarks/kernels/failure.h"
#include "benchmarks/kernels/spinning_pool.h"
#include "kernels/cpu/level.h"
#include "kernels/cpu/sparse_decode.h"
#include "kernels/reference/sparse_decode.h"

namespace spotlight::benchmarks {
namespace {

constexpr int32_t kKvHeads = 4, kQuickKvHeads = 6, kHeadDim = 64, kNumPlanes = 4, kNumSelect = 64;
constexpr int32_t kContext = 65536, kQuickContext = 8192;
constexpr size_t kColdBytes = size_t{512} << 20;  // well past the last-level cache
constexpr size_t kQuickBytes = size_t{1} << 20;

// Several layers' codes of one sequence, in shuffled pages; one layer's keys and values, of which few are read.
class CodeCache {
 public:
  CodeCache(int hash_words, bool prefilter, bool quick)
      : words_(hash_words),
        prefilter_(prefilter),
        heads_(quick ? kQuickKvHeads : kKvHeads),
        context_len_(quick ? kQuickContext : kContext) {
    const int32_t num_pages = context_len_ / kernels::kPageTokens;
    const int64_t entries = int64_t{context_len_} * heads_;
    layer_words_ = entries * (prefilter ? 1 : hash_words);
    num_layers_ = std::max<int64_t>(1, (quick ? kQuickBytes : kColdBytes) / (4 * layer_words_));
    std::mt19937_64 random(3);
    const auto fill = [&random](int64_t count) {
      std::vector<uint32_t> words(count);
      for (int64_t i = 0; i + 1 < count; i += 2) {
        const uint64_t bits = random();
        words[i] = static_cast<uint32_t>(bits);
        words[i + 1] = static_cast<uint32_t>(bits >> 32);
      }
      return words;
    };
    scanned_ = fill(num_layers_ * layer_words_);
    if (prefilter) {  // the layers share whole codes, of which few are read; the first layer's prefixes are theirs
      codes_ = fill(entries * hash_words);
      for (int64_t i = 0; i < entries; ++i) scanned_[i] = codes_[i * hash_words];
    }
    planes_ = fill(int64_t{heads_} * kNumPlanes * hash_words);
    kv_.assign(entries * 2 * kHeadDim, 0x3c00);
    q_.assign(heads_ * kHeadDim, 0x3d80);
    out_ = q_;
    page_table_.resize(num_pages);
    std::iota(page_table_.begin(), page_table_.end(), 0);
    std::shuffle(page_table_.begin(), page_table_.end(), random);
  }

  kernels::SparseDecodeParams Params(int64_t call) {
    uint32_t* const scanned = scanned_.data() + call % num_layers_ * layer_words_;
    kernels::SparseDecodeParams params;
    params.dtype = kernels::DType::kBF16;
    params.num_rows = 1;
    params.num_q_heads = params.num_kv_heads = heads_;
    params.head_dim = kHeadDim;
    params.hash_words = words_;
    params.num_planes = kNumPlanes;
    params.top_plane_weight = 1 << (kNumPlanes - 1);
    params.softmax_scale = 0.125f;
    params.prefilter = prefilter_;
    params.q = q_.data();
    params.planes = planes_.data();
    params.pages = {kv_.data(), prefilter_ ? codes_.data() : scanned, prefilter_ ? scanned : nullptr,
                    static_cast<int32_t>(page_table_.size())};
    params.page_table = page_table_.data();
    params.max_pages = static_cast<int32_t>(page_table_.size());
    params.context_len = &context_len_;
    params.num_select = &kNumSelect;
    params.max_context = context_len_;
    params.out = out_.data();
    return params;
  }
  // What call number `call` scans.
  const uint32_t* Scanned(int64_t call) const { return scanned_.data() + call % num_layers_ * layer_words_; }
  int64_t scanned_words() const { return layer_words_; }

 private:
  const int words_;
  const bool prefilter_;
  const int32_t heads_;
  const int32_t context_len_;
  int64_t layer_words_ = 0, num_layers_ = 0;
  std::vector<uint32_t> scanned_, codes_, planes_;
  std::vector<uint16_t> kv_, q_, out_;
  std::vector<int32_t> page_table_;
};

// Leaves the order of requests to the hardware, or asks ahead as the scoring does.
template <bool kAskAhead>
double SecondsToRead(const uint32_t* words, int64_t count, const kernels::ParallelFor& parallel_for) {
  using Vector [[gnu::vector_size(64)]] = uint64_t;
  constexpr int64_t kAheadBytes = 8192;
  constexpr int64_t kPieces = 64;  // as many items as the scoring's, or more
  const int64_t share = count * sizeof(uint32_t) / sizeof(Vector) / kPieces;
  const auto start = std::chrono::steady_clock::now();
  parallel_for(kPieces, [&](int64_t begin, int64_t end) {
    const char* bytes = reinterpret_cast<const char*>(words) + begin * share * sizeof(Vector);
    Vector sums[2] = {};
    for (int64_t i = 0; i + 1 < (end - begin) * share; i += 2) {
      if constexpr (kAskAhead) {
        __builtin_prefetch(bytes + i * sizeof(Vector) + kAheadBytes, 0, 2);
        __builtin_prefetch(bytes + (i + 1) * sizeof(Vector) + kAheadBytes, 0, 2);
      }
      Vector loaded[2];
      __builtin_memcpy(loaded, bytes + i * sizeof(Vector), sizeof(loaded));
      sums[0] += loaded[0];
      sums[1] += loaded[1];
    }
    sums[0] += sums[1];
    asm volatile("" : : "m"(sums[0]));  // the sum counts as used
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Verify(CodeCache* cache, kernels::cpu::Level level) {
  kernels::SparseDecodeParams params = cache->Params(0);
  const int32_t last_head = params.num_kv_heads - 1;
  std::vector<int32_t> selected(params.num_kv_heads * kNumSelect);
  params.selected = selected.data();
  params.max_select = kNumSelect;
  kernels::cpu::SparseDecode(params, level);
  const std::vector<int32_t> expected = kernels::reference::SelectTokens(params, 0, last_head);
  if (!std::equal(expected.begin(), expected.end(), selected.begin() + last_head * kNumSelect)) {
    Fail(std::string("the selection on the CPU differs from the reference's: ") + kernels::cpu::LevelName(level));
  }
}

CpuScoringRow Measure(CodeCache* cache, kernels::cpu::Level level, int num_threads, int num_samples) {
  const SpinningPool pool(num_threads);
  double score_seconds = std::numeric_limits<double>::infinity(), read_seconds = score_seconds;
  int64_t call = 0;
  for (int i = 0; i < num_samples; ++i) {
    kernels::SparseDecodeParams params = cache->Params(call++);
    kernels::SparseDecodeStages stages;
    params.execution.parallel_for = pool.parallel_for();
    params.stage_seconds = &stages;
    kernels::cpu::SparseDecode(params, level);
    score_seconds = std::min(score_seconds, stages.score);
    const auto read = [&](auto seconds_to_read) {
      const double seconds = seconds_to_read(cache->Scanned(call++), cache->scanned_words(), *pool.parallel_for());
      read_seconds = std::min(read_seconds, seconds);
    };
    read(SecondsToRead<false>);
    read(SecondsToRead<true>);
  }
  const double gigabytes = 4e-9 * static_cast<double>(cache->scanned_words());
  CpuScoringRow row;
  row.level = kernels::cpu::LevelName(level);
  row.num_threads = num_threads;
  row.score_gb_per_s = gigabytes / score_seconds;
  row.read_gb_per_s = gigabytes / read_seconds;
  return row;
}

}  // namespace

std::vector<CpuScoringRow> MeasureCpuScoring(const CpuScoringOptions& options) {
  std::printf("Scoring on the CPU, J = 4, beside a plain read of the same bytes by the same threads:\n");
  std::printf("%-9s %5s %8s %12s %12s %7s\n", "level", "W", "threads", "score GB/s", "read GB/s", "ratio");
  const int most = options.num_threads > 0 ? options.num_threads
                                           : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::vector<int> threads = {1};
  if (most > 1) threads.push_back(most);
  std::vector<CpuScoringRow> rows;
  for (const int words : {1, 2, 4, 8}) {
    const bool prefilter = words == 1;
    CodeCache cache(prefilter ? 4 : words, prefilter, options.quick);
    for (const kernels::cpu::Level level : kernels::cpu::SupportedLevels()) {
      Verify(&cache, level);
      for (const int num_threads : threads) {
        CpuScoringRow row = Measure(&cache, level, num_threads, options.num_samples);
        row.hash_words = words;
        std::printf("%-9s %5d %8d %12.1f %12.1f %7.2f\n", row.level.c_str(), words, num_threads, row.score_gb_per_s,
                    row.read_gb_per_s, row.ratio());
        rows.push_back(row);
      }
    }
  }
  std::printf("\n");
  return rows;
}

}  // namespace spotlight::benchmarks
