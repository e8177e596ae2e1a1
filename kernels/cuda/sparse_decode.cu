#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/select.cuh"
#include "kernels/token_list.h"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kScoreThreads = 256;

struct RetrievalArgs {
  int32_t num_kv_heads, hash_words, num_planes, top_plane_weight;
  bool prefilter;
  const uint32_t* planes;  // of the pass's rows, like all that follows
  const uint32_t* codes;
  const uint32_t* prefix;
  const int32_t* page_table;
  int32_t max_pages;
  const int32_t* context_len;
  const int32_t* num_select;
  int32_t sink_tokens, recent_tokens;
  int64_t max_context;
  int16_t* scores;  // [rows, Hkv, max_context] of candidates
  int32_t* list;    // [rows, Hkv, max_context] chosen tokens
  int32_t* selected;
  int32_t max_select;
  int32_t* num_selected;
};

struct CodeReader {
  const RetrievalArgs& args;
  int32_t row, kv_head;

  __device__ int64_t Entry(int32_t token) const {
    const int64_t page = args.page_table[int64_t{row} * args.max_pages + token / kPageTokens];
    return (page * args.num_kv_heads + kv_head) * kPageTokens + token % kPageTokens;
  }
  // The first `words` words of the row's planes against `code`.
  __device__ int16_t Score(const uint32_t* code, int words) const {
    const uint32_t* planes =
        args.planes + (int64_t{row} * args.num_kv_heads + kv_head) * args.num_planes * args.hash_words;
    int raw = 0;
    for (int j = 0; j < args.num_planes; ++j) {
      int matches = 0;
      for (int w = 0; w < words; ++w) matches += __popc(~(code[w] ^ planes[j * args.hash_words + w]));
      raw += matches * (j == args.num_planes - 1 ? args.top_plane_weight : 1 << j);
    }
    return static_cast<int16_t>(raw);
  }
};

// Grid (ceil(max_context / kScoreThreads), Hkv, rows): a thread scores one candidate.
__global__ void ScoreCandidates(const RetrievalArgs args) {
  const int32_t kv_head = blockIdx.y, row = blockIdx.z;
  const Competition competition =
      CompetitionOf(args.context_len[row], args.num_select[row], args.sink_tokens, args.recent_tokens);
  const int32_t i = blockIdx.x * kScoreThreads + threadIdx.x;
  if (competition.num_select == 0 || i >= competition.count) return;
  const CodeReader reader{args, row, kv_head};
  const int64_t entry = reader.Entry(competition.begin + i);
  args.scores[(int64_t{row} * args.num_kv_heads + kv_head) * args.max_context + i] =
      args.prefilter ? reader.Score(args.prefix + entry, 1)
                     : reader.Score(args.codes + entry * args.hash_words, args.hash_words);
}

// Grid (Hkv, rows), block (kSelectThreads): a block owns one row and head.
__global__ void __launch_bounds__(kSelectThreads) SelectCandidates(const RetrievalArgs args) {
  __shared__ SelectShared shared;
  const int32_t kv_head = blockIdx.x, row = blockIdx.y;
  const int64_t row_head = int64_t{row} * args.num_kv_heads + kv_head;
  const Competition competition =
      CompetitionOf(args.context_len[row], args.num_select[row], args.sink_tokens, args.recent_tokens);
  const int32_t num_select = competition.num_select;
  int16_t* scores = args.scores + row_head * args.max_context;
  int32_t* list = args.list + row_head * args.max_context;
  if (num_select > 0 && !args.prefilter) {
    FindThreshold(scores, competition.count, num_select, &shared);
    CompactChosen(scores, competition.count, nullptr, competition.begin, list, &shared);
  } else if (num_select > 0) {
    const int64_t wanted = int64_t{kPrefilterFactor} * num_select;
    const int32_t survivors = wanted < competition.count ? static_cast<int32_t>(wanted) : competition.count;
    FindThreshold(scores, competition.count, survivors, &shared);
    CompactChosen(scores, competition.count, nullptr, competition.begin, list, &shared);
    const CodeReader reader{args, row, kv_head};
    for (int32_t i = threadIdx.x; i < survivors; i += kSelectThreads) {
      scores[i] = reader.Score(args.codes + reader.Entry(list[i]) * args.hash_words, args.hash_words);
    }
    __syncthreads();
    FindThreshold(scores, survivors, num_select, &shared);
    CompactChosen(scores, survivors, list, 0, list, &shared);
  }
  if (args.selected != nullptr) {
    for (int32_t i = threadIdx.x; i < args.max_select; i += kSelectThreads) {
      args.selected[row_head * args.max_select + i] = i < num_select ? list[i] : -1;
    }
  }
  if (args.num_selected != nullptr && threadIdx.x == 0) args.num_selected[row_head] = num_select;
}

size_t Align(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

struct WorkspaceParts {
  size_t scores, list, partials, total;  // byte offsets, and the whole
};

WorkspaceParts PartsOf(int32_t max_rows, int64_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                       int32_t head_dim) {
  const size_t entries = static_cast<size_t>(std::min(max_rows, kPassRows)) * num_kv_heads * max_context;
  WorkspaceParts parts;
  parts.scores = 0;
  parts.list = Align(entries * sizeof(int16_t));
  parts.partials = parts.list + Align(entries * sizeof(int32_t));
  parts.total = parts.partials + Align(PartialBytes(max_rows, num_q_heads, head_dim));
  return parts;
}

// Times of the stages between events; does nothing when nobody asks.
class StageClock {
 public:
  StageClock(SparseDecodeStages* stages, LaunchSequence* sequence) : stages_(stages), sequence_(sequence) {
    if (stages_ == nullptr) return;
    for (cudaEvent_t& event : events_) sequence_->Check(cudaEventCreate(&event));
    *stages_ = {};
  }
  ~StageClock() {
    for (cudaEvent_t event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }
  StageClock(const StageClock&) = delete;
  StageClock& operator=(const StageClock&) = delete;

  void Mark(int boundary) {
    if (stages_ != nullptr && sequence_->ok()) {
      sequence_->Check(cudaEventRecord(events_[boundary], sequence_->stream()));
    }
  }
  void Add() {
    if (stages_ == nullptr || !sequence_->ok()) return;
    sequence_->Check(cudaEventSynchronize(events_[3]));
    double* const fields[] = {&stages_->score, &stages_->select, &stages_->attend};
    for (int i = 0; i < 3 && sequence_->ok(); ++i) {
      float milliseconds = 0;
      sequence_->Check(cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]));
      *fields[i] += 1e-3 * milliseconds;
    }
  }

 private:
  SparseDecodeStages* const stages_;
  LaunchSequence* const sequence_;
  cudaEvent_t events_[4] = {};
};

}  // namespace

size_t SparseDecodeWorkspaceBytes(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                  int32_t head_dim) {
  return PartsOf(max_rows, max_context, num_q_heads, num_kv_heads, head_dim).total;
}

int SparseDecode(const SparseDecodeParams& params) {
  LaunchSequence sequence(params.execution.stream);
  StageClock clock(params.stage_seconds, &sequence);
  const WorkspaceParts parts =
      PartsOf(params.num_rows, params.max_context, params.num_q_heads, params.num_kv_heads, params.head_dim);
  char* const workspace = static_cast<char*>(params.workspace);
  for (int32_t first = 0; first < params.num_rows; first += kPassRows) {
    const int32_t rows = std::min(kPassRows, params.num_rows - first);
    const int64_t first_head = int64_t{first} * params.num_kv_heads;
    RetrievalArgs retrieval = {};
    retrieval.num_kv_heads = params.num_kv_heads;
    retrieval.hash_words = params.hash_words;
    retrieval.num_planes = params.num_planes;
    retrieval.top_plane_weight = params.top_plane_weight;
    retrieval.prefilter = params.prefilter;
    retrieval.planes = params.planes + first_head * params.num_planes * params.hash_words;
    retrieval.codes = params.pages.codes;
    retrieval.prefix = params.pages.prefix;
    retrieval.page_table = params.page_table + int64_t{first} * params.max_pages;
    retrieval.max_pages = params.max_pages;
    retrieval.context_len = params.context_len + first;
    retrieval.num_select = params.num_select + first;
    retrieval.sink_tokens = params.sink_tokens;
    retrieval.recent_tokens = params.recent_tokens;
    retrieval.max_context = params.max_context;
    retrieval.scores = reinterpret_cast<int16_t*>(workspace + parts.scores);
    retrieval.list = reinterpret_cast<int32_t*>(workspace + parts.list);
    retrieval.selected = params.selected == nullptr ? nullptr : params.selected + first_head * params.max_select;
    retrieval.max_select = params.max_select;
    retrieval.num_selected = params.num_selected == nullptr ? nullptr : params.num_selected + first_head;

    const int64_t offset = int64_t{first} * params.num_q_heads * params.head_dim * SizeOf(params.dtype);
    AttentionArgs attention = {};
    attention.dtype = params.dtype;
    attention.num_q_heads = params.num_q_heads;
    attention.num_kv_heads = params.num_kv_heads;
    attention.head_dim = params.head_dim;
    attention.softmax_scale = params.softmax_scale;
    attention.q = static_cast<const char*>(params.q) + offset;
    attention.kv = params.pages.kv;
    attention.page_table = params.page_table;
    attention.first_row = first;
    attention.rows_per_table = 1;
    attention.max_pages = params.max_pages;
    attention.context_len = retrieval.context_len;
    attention.num_select = retrieval.num_select;
    attention.sink_tokens = params.sink_tokens;
    attention.recent_tokens = params.recent_tokens;
    attention.selected = retrieval.list;
    attention.selected_stride = params.max_context;
    attention.out = static_cast<char*>(params.out) + offset;
    attention.partials = reinterpret_cast<float*>(workspace + parts.partials);

    const dim3 score_grid((params.max_context + kScoreThreads - 1) / kScoreThreads, params.num_kv_heads, rows);
    clock.Mark(0);
    sequence.Launch(ScoreCandidates, score_grid, dim3(kScoreThreads), 0, retrieval);
    clock.Mark(1);
    sequence.Launch(SelectCandidates, dim3(params.num_kv_heads, rows), dim3(kSelectThreads), 0, retrieval);
    clock.Mark(2);
    LaunchAttention(attention, rows, &sequence);
    clock.Mark(3);
    clock.Add();
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
