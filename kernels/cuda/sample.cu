#include "kernels/cuda/sample.h"

#include <cfloat>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/sample_row.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kVector = 8;  // logits that a thread loads at once
constexpr int kCountThreads = 256;
constexpr float kOne = 0x1p44f;  // of a weight
// A lighter token's weight rounds to 0.
constexpr float kLightest = -31.0f;
// Of the bound under which no token can be in a nucleus, for the roundings on the way to it.
constexpr float kNucleusSlack = 1e-4f;

// exp((logit - max) * scale) in units of 2^-44.
struct Weigh {
  float max, scale;
  __device__ uint64_t operator()(uint32_t key) const {
    const float x = (LogitOf(key) - max) * scale;
    return x < kLightest ? 0 : __float2ull_rn(__expf(x) * kOne);
  }
};

// The highest key and the lowest id that has it, in one number.
__device__ uint64_t Packed(uint32_t key, int32_t id) {
  return uint64_t{key} << 32 | ~static_cast<uint32_t>(id);
}
__device__ uint32_t KeyIn(uint64_t packed) {
  return static_cast<uint32_t>(packed >> 32);
}
__device__ int32_t IdIn(uint64_t packed) {
  return static_cast<int32_t>(~static_cast<uint32_t>(packed));
}

__device__ bool IsUsable(uint64_t best) {
  return KeyIn(best) >= kLowestKey && KeyIn(best) < kInfinityKey;
}

__device__ void LoadVector(const float* from, float* to) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
template <typename T>
__device__ void LoadVector(const T* from, float* to) {
  struct alignas(16) Vector {
    T at[kVector];
  };
  const Vector vector = *reinterpret_cast<const Vector*>(from);
  for (int i = 0; i < kVector; ++i) to[i] = ToFloat(vector.at[i]);
}

// As engine/sampler.cc computes it, operation by operation.
__device__ float Penalised(float logit, uint32_t seen, const SampleRowParams& row) {
  if (seen == 0) return logit;
  logit = logit > 0 ? __fdiv_rn(logit, row.repetition) : __fmul_rn(logit, row.repetition);
  const uint32_t count = seen & ~kInPrompt;
  if (count == 0) return logit;
  return __fsub_rn(logit, __fadd_rn(row.presence, __fmul_rn(row.frequency, static_cast<float>(count))));
}

// This thread's logits to the row, with penalties where `counts` is given. Its best of them.
template <typename T>
__device__ uint64_t Load(const T* logits, const uint32_t* counts, const SampleRowParams& params, bool vectors,
                         SampleRow* row) {
  uint32_t best = 0;
  int32_t best_id = 0;
  const auto take = [&](float logit, int32_t id) {
    if (counts != nullptr) logit = Penalised(logit, counts[id], params);
    const uint32_t key = KeyOf(logit);
    *row->At(id) = key;
    if (key > best) best = key, best_id = id;
  };
  const int lane = threadIdx.x % 32;
  if (!vectors) {
    for (int id = row->warp_begin() + lane; id < row->warp_end(); id += 32) take(ToFloat(logits[id]), id);
    return Packed(best, best_id);
  }
  constexpr int kStep = 32 * kVector;
  constexpr int kDepth = 2;  // vectors on their way
  for (int begin = row->warp_begin() + lane * kVector; begin < row->warp_end(); begin += kDepth * kStep) {
    float vector[kDepth][kVector];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (begin + d * kStep < row->warp_end()) LoadVector(logits + begin + d * kStep, vector[d]);
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (begin + d * kStep >= row->warp_end()) break;
#pragma unroll
      for (int i = 0; i < kVector; ++i) take(vector[d][i], begin + d * kStep + i);
    }
  }
  return Packed(best, best_id);
}

// Biases, then bans. This thread's best afterwards.
__device__ uint64_t AddEntries(const SampleEntry* entries, const SampleRowParams& params, SampleRow* row) {
  __syncthreads();
  for (int i = threadIdx.x; i < params.num_biases; i += kSampleThreads) {
    if (!row->Holds(entries[i].token_id)) continue;
    uint32_t* const key = row->At(entries[i].token_id);
    *key = KeyOf(__fadd_rn(LogitOf(*key), entries[i].bias));
  }
  __syncthreads();
  for (int i = threadIdx.x; i < params.num_bans; i += kSampleThreads) {
    const int32_t id = entries[params.num_biases + i].token_id;
    if (row->Holds(id)) *row->At(id) = kMinusInfinityKey;
  }
  __syncthreads();
  uint32_t best = 0;
  int32_t best_id = 0;
  row->ForEach([&](uint32_t key, int32_t id) {
    if (key > best) best = key, best_id = id;
  });
  return Packed(best, best_id);
}

// A key that at least `count` of `within` reach: by the best keys of all threads. low where they cannot tell.
__device__ uint32_t BoundOfTop(uint32_t count, uint32_t low, uint32_t high, uint64_t thread_best, SampleRow* row) {
  SampleRow::Bin bin;
  const auto best = [&](auto add) { add(KeyIn(thread_best)); };
  return row->FindBin<false>(low, high, count, best, Weigh{}, &bin) ? bin.bottom : low;
}

__device__ int32_t Draw(const SampleRowParams& params, int32_t vocab_size, uint64_t best, uint64_t thread_best,
                        SampleRow* row) {
  const uint32_t high = KeyIn(best);
  const Weigh weigh{LogitOf(high), params.scale};
  const auto key_of_bound = [&](float bound) { return max(kLowestKey, KeyOf(fminf(bound, weigh.max))); };
  Cut cut{kLowestKey, INT_MAX};
  const auto weight = [&](uint32_t key, int32_t id) -> uint64_t { return cut.Keeps(key, id) ? weigh(key) : 0; };
  const auto sum_weights = [&] {
    uint64_t mine = 0;
    row->ForEach([&](uint32_t key, int32_t id) { mine += weight(key, id); });
    return row->Sum(mine);
  };

  if (params.min_p_distance <= 0) cut.key = key_of_bound(__fadd_rn(weigh.max, params.min_p_distance));
  if (params.top_k > 0 && params.top_k < vocab_size) {
    const uint32_t bound = BoundOfTop(params.top_k, cut.key, high, thread_best, row);
    cut = row->Select<false>(cut, bound, high, params.top_k, weigh);
  }
  SampleRow::Sums sums = sum_weights();
  if (params.top_p < 1) {
    const auto target = static_cast<uint64_t>(ceil(static_cast<double>(params.top_p) * static_cast<double>(sums.all)));
    // Tokens lighter than an even share of what top_p may drop cannot be in the nucleus: together they weigh less.
    const float light = (1 - params.top_p) * static_cast<float>(sums.all) / static_cast<float>(vocab_size);
    const float bound = weigh.max + (logf(light / kOne) - kNucleusSlack) / params.scale;
    cut = row->Select<true>(cut, key_of_bound(bound), high, min(max(target, uint64_t{1}), sums.all), weigh);
    sums = sum_weights();
  }
  const auto target = static_cast<uint64_t>(params.draw * static_cast<double>(sums.all));
  return row->Find(sums, min(target, sums.all - 1), weight);
}

// The likeliest tokens to `out`, from the row's raw logits.
__device__ void WriteTop(int32_t count, uint64_t best, uint64_t thread_best, double log_sum, int block, int num_blocks,
                         SampleShared* shared, SampleRow* row, SampleOutput* out) {
  const Cut all{kLowestKey, INT_MAX};
  const uint32_t bound = BoundOfTop(count, all.key, KeyIn(best), thread_best, row);
  const Cut cut = row->Select<false>(all, bound, KeyIn(best), count, Weigh{});
  if (threadIdx.x == 0) shared->num_top = 0;
  __syncthreads();
  row->ForEach([&](uint32_t key, int32_t id) {
    if (cut.Keeps(key, id)) shared->top[atomicAdd(&shared->num_top, 1)] = Packed(key, id);
  });
  row->Sync();
  if (block != 0) return;
  uint32_t total = 0;
  const int from = threadIdx.x / kMaxTopLogprobs;
  const uint32_t index = threadIdx.x % kMaxTopLogprobs;
  for (int b = 0; b < num_blocks; ++b) {
    const uint32_t of_block = row->Read(&shared->num_top, b);
    if (b == from && index < of_block) shared->all_top[total + index] = row->Read(&shared->top[index], b);
    total += of_block;
  }
  __syncthreads();
  if (threadIdx.x >= kMaxTopLogprobs) return;
  if (threadIdx.x >= total) {
    out->top_ids[threadIdx.x] = -1;
    return;
  }
  const uint64_t mine = shared->all_top[threadIdx.x];
  int rank = 0;
  for (uint32_t i = 0; i < total; ++i) rank += shared->all_top[i] > mine;
  out->top_ids[rank] = IdIn(mine);
  out->top_logprobs[rank] = static_cast<float>(LogitOf(KeyIn(mine)) - log_sum);
}

// Grid (R * num_blocks), clusters of num_blocks. A warp has `segment` logits of the row.
template <typename T, bool kResident>
__global__ void __launch_bounds__(kSampleThreads, 2)
    SampleRows(const SampleParams params, const int num_blocks, const int segment) {
  extern __shared__ uint32_t shared_values[];
  __shared__ SampleShared shared;
  const int index = blockIdx.x / num_blocks, block = blockIdx.x % num_blocks;
  const SampleRowParams row_params = params.rows[index];
  if (row_params.out < 0) return;
  const int32_t vocab_size = params.vocab_size;
  uint32_t* values = shared_values;
  if (!kResident) {
    values = static_cast<uint32_t*>(params.workspace) + (int64_t{index} * num_blocks + block) * kSampleWarps * segment;
  }
  SampleRow row(&shared, values, num_blocks, block, segment, vocab_size);
  row.SetBlockSize(kSampleWarps * segment);

  const T* const logits = static_cast<const T*>(params.logits) + int64_t{index} * vocab_size;
  uint32_t* const counts =
      row_params.has_penalty != 0 ? params.counts + int64_t{row_params.slot} * vocab_size : nullptr;
  const bool has_entries = row_params.num_biases + row_params.num_bans > 0;
  const bool vectors = vocab_size % kVector == 0;
  uint64_t thread_best = Load(logits, counts, row_params, vectors, &row);
  if (has_entries) {
    thread_best = AddEntries(params.entries + int64_t{row_params.slot} * kMaxSampleEntries, row_params, &row);
  }
  uint64_t best = row.Max(thread_best);

  int32_t token_id = -1;
  if (IsUsable(best)) {
    const bool greedy = row_params.scale == 0 || row_params.top_k == 1;
    token_id = row_params.scored_token >= 0 ? row_params.scored_token
               : greedy                     ? IdIn(best)
                                            : Draw(row_params, vocab_size, best, thread_best, &row);
  }
  SampleOutput* const out = params.out + row_params.out;
  float logprob = 0;
  if (row_params.num_top >= 0 && token_id >= 0) {
    if (counts != nullptr || has_entries) {
      thread_best = Load(logits, nullptr, row_params, vectors, &row);
      best = row.Max(thread_best);
    }
    if (!IsUsable(best)) {
      token_id = -1;
    } else {
      const Weigh weigh{LogitOf(KeyIn(best)), 1};
      uint64_t mine = 0;
      row.ForEach([&](uint32_t key, int32_t) { mine += weigh(key); });
      const double log_sum = weigh.max + log(static_cast<double>(row.Sum(mine).all) / kOne);
      logprob = static_cast<float>(ToFloat(logits[token_id]) - log_sum);
      if (row_params.num_top > 0) {
        WriteTop(min(row_params.num_top, kMaxTopLogprobs), best, thread_best, log_sum, block, num_blocks, &shared, &row,
                 out);
      }
    }
  }
  if (block == 0 && threadIdx.x == 0) {
    out->token_id = token_id;
    out->logprob = logprob;
    if (counts != nullptr && token_id >= 0 && row_params.scored_token < 0) ++counts[token_id];
  }
  row.Sync();  // others may still read this block's memory
}

__global__ void CountEach(const CountTokensParams params) {
  const int i = blockIdx.x * kCountThreads + threadIdx.x;
  if (i >= params.num_prompt + params.num_generated) return;
  uint32_t* const count = params.counts + params.token_ids[i];
  if (i < params.num_prompt) {
    atomicOr(count, kInPrompt);
  } else {
    atomicAdd(count, 1);
  }
}

__global__ void FeedEach(const FeedTokensParams params) {
  const int i = blockIdx.x * kCountThreads + threadIdx.x;
  if (i >= params.num_tokens || params.token_ids[i] >= 0) return;
  params.token_ids[i] = max(params.sampled[~params.token_ids[i]].token_id, 0);
}

// How a row of the vocabulary is spread over blocks and warps on this device.
struct Spread {
  int num_blocks = 1;
  int segment = 0;       // ids of a warp
  bool resident = true;  // in shared memory
  size_t bytes = 0;      // of a block's part
};

Spread SpreadOf(int32_t vocab_size, LaunchSequence* sequence) {
  int device = 0, shared_bytes = 0;
  sequence->Check(cudaGetDevice(&device));
  sequence->Check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  Spread spread;
  // Clusters are there where the code of sm_90 runs.
  if (sequence->CanWait(reinterpret_cast<const void*>(SampleRows<float, true>)))
    spread.num_blocks = kSampleClusterBlocks;
  const int warps = spread.num_blocks * kSampleWarps;
  spread.segment = ((vocab_size + warps - 1) / warps + kVector - 1) / kVector * kVector;
  spread.bytes = sizeof(uint32_t) * kSampleWarps * spread.segment;
  spread.resident = spread.bytes + sizeof(SampleShared) <= static_cast<size_t>(shared_bytes);
  return spread;
}

template <typename T, bool kResident>
void Launch(const SampleParams& params, const Spread& spread, LaunchSequence* sequence) {
  const auto kernel = SampleRows<T, kResident>;
  const size_t shared_bytes = kResident ? spread.bytes : 0;
  sequence->Check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  LaunchOptions options;
  options.cluster_size = spread.num_blocks;
  sequence->LaunchWith(options, kernel, dim3(params.num_rows * spread.num_blocks), dim3(kSampleThreads), shared_bytes,
                       params, spread.num_blocks, spread.segment);
}

template <typename T>
void LaunchSample(const SampleParams& params, LaunchSequence* sequence) {
  const Spread spread = SpreadOf(params.vocab_size, sequence);
  if (spread.resident) {
    Launch<T, true>(params, spread, sequence);
  } else {
    Launch<T, false>(params, spread, sequence);
  }
}

dim3 BlocksFor(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kCountThreads - 1) / kCountThreads));
}

}  // namespace

size_t SampleWorkspaceBytes(int32_t max_rows, int32_t vocab_size) {
  LaunchSequence sequence(nullptr);
  const Spread spread = SpreadOf(vocab_size, &sequence);
  return spread.resident ? 0 : spread.bytes * spread.num_blocks * max_rows;
}

int Sample(const SampleParams& params) {
  LaunchSequence sequence(params.execution.stream);
  switch (params.dtype) {
    case DType::kF32:
      LaunchSample<float>(params, &sequence);
      break;
    case DType::kBF16:
      LaunchSample<__nv_bfloat16>(params, &sequence);
      break;
    case DType::kF16:
      LaunchSample<__half>(params, &sequence);
      break;
  }
  return sequence.error();
}

int CountTokens(const CountTokensParams& params) {
  LaunchSequence sequence(params.execution.stream);
  sequence.Check(cudaMemsetAsync(params.counts, 0, sizeof(uint32_t) * params.vocab_size, sequence.stream()));
  const int64_t num_tokens = int64_t{params.num_prompt} + params.num_generated;
  if (num_tokens > 0) sequence.Launch(CountEach, BlocksFor(num_tokens), dim3(kCountThreads), 0, params);
  return sequence.error();
}

int FeedTokens(const FeedTokensParams& params) {
  LaunchSequence sequence(params.execution.stream);
  sequence.Launch(FeedEach, BlocksFor(params.num_tokens), dim3(kCountThreads), 0, params);
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
