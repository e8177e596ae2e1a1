#include "kernels/cpu/sparse_decode.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/parallel.h"
#include "kernels/token_list.h"

namespace spotlight::kernels::cpu {
namespace {

// Candidates that one work item scores, of kScoreHeads heads: 32 KB of codes at W = 4.
constexpr int32_t kScoreTokens = 512;
// Selecting from fewer scores than this in all is quicker on one thread than waking the others.
constexpr int64_t kSerialSelectScores = 1 << 16;

// One (row, KV head) that competes, with its places in the call's scratch memory.
struct Contest {
  int64_t row = 0, kv_head = 0;
  Competition competition;
  int16_t* scores = nullptr;    // [count]
  int32_t* selected = nullptr;  // [num_select]
};

// Tokens [begin, end) of some neighbouring heads of a row, which compete alike.
struct ScoreItem {
  int64_t contest = 0;  // of the first head
  int32_t num_heads = 0;
  int32_t begin = 0, end = 0;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Retrieval {
 public:
  Retrieval(const SparseDecodeParams& params, const KernelTable& kernels)
      : params_(params),
        kernels_(kernels),
        max_score_(32 * params.hash_words * ((1 << (params.num_planes - 1)) - 1 + params.top_plane_weight)) {}

  // The whole code's planes, or those of its first word.
  ScorePlanes PlanesOf(const Contest& contest, int words) const {
    ScorePlanes planes;
    planes.words = words;
    planes.num_planes = params_.num_planes;
    planes.top_plane_weight = params_.top_plane_weight;
    const uint32_t* source = params_.planes + (contest.row * params_.num_kv_heads + contest.kv_head) *
                                                  params_.num_planes * params_.hash_words;
    for (int j = 0; j < params_.num_planes; ++j) {
      for (int w = 0; w < words; ++w) planes.inverted[j * words + w] = ~source[j * params_.hash_words + w];
    }
    return planes;
  }

  // First pass. `contests` begins with the item's first.
  void Score(const ScoreItem& item, const Contest* contests) const {
    const Contest& first = contests[0];
    PagedCodes pages;
    pages.codes = params_.prefilter ? params_.pages.prefix : params_.pages.codes;
    pages.page_table = params_.page_table + first.row * params_.max_pages;
    pages.num_kv_heads = params_.num_kv_heads;
    pages.first_head = static_cast<int32_t>(first.kv_head);
    pages.num_heads = item.num_heads;
    // Into what the same thread most likely scores next.
    pages.num_pages = (first.competition.begin + first.competition.count + kPageTokens - 1) / kPageTokens;
    ScorePlanes planes[kScoreHeads];
    int16_t* scores[kScoreHeads];
    for (int32_t h = 0; h < item.num_heads; ++h) {
      planes[h] = PlanesOf(contests[h], params_.prefilter ? 1 : params_.hash_words);
      scores[h] = contests[h].scores + item.begin - first.competition.begin;
    }
    kernels_.score_pages(planes, pages, item.begin, item.end, scores);
  }

  void Select(const Contest& contest) const {
    const int64_t count = contest.competition.count, num_select = contest.competition.num_select;
    if (!params_.prefilter) {
      SelectBest(contest.scores, count, num_select, contest.competition.begin, contest.selected);
      return;
    }
    static thread_local Scratch survivor_scratch, code_scratch, score_scratch;
    const int64_t num_survivors = std::min(count, kPrefilterFactor * num_select);
    int32_t* survivors = survivor_scratch.Get<int32_t>(num_survivors);
    SelectBest(contest.scores, count, num_survivors, contest.competition.begin, survivors);

    const int words = params_.hash_words;
    uint32_t* codes = code_scratch.Get<uint32_t>(num_survivors * words);
    for (int64_t i = 0; i < num_survivors; ++i) {
      std::memcpy(codes + i * words, params_.pages.codes + EntryOf(contest, survivors[i]) * words,
                  words * sizeof(uint32_t));
    }
    int16_t* scores = score_scratch.Get<int16_t>(num_survivors);
    kernels_.score(PlanesOf(contest, words), codes, num_survivors, scores);
    SelectBest(scores, num_survivors, num_select, 0, contest.selected);
    for (int64_t i = 0; i < num_select; ++i) contest.selected[i] = survivors[contest.selected[i]];
  }

 private:
  int64_t EntryOf(const Contest& contest, int32_t token) const {
    const int64_t page = params_.page_table[contest.row * params_.max_pages + token / kPageTokens];
    return (page * params_.num_kv_heads + contest.kv_head) * kPageTokens + token % kPageTokens;
  }

  // The num_select best by (score descending, index ascending), ascending, as base + index. The threshold is found by
  // bisection: counting compares 32 scores an instruction, where a histogram adds one at a time.
  void SelectBest(const int16_t* scores, int64_t count, int64_t num_select, int32_t base, int32_t* out) const {
    int32_t at_least = 0;            // count(score >= at_least) >= num_select
    int32_t under = max_score_ + 1;  // count(score >= under) == num_over < num_select
    int64_t num_over = 0;
    while (under - at_least > 1) {
      const int32_t middle = (at_least + under) / 2;
      const int64_t reached = kernels_.count_at_least(scores, count, static_cast<int16_t>(middle));
      if (reached >= num_select) {
        at_least = middle;
      } else {
        under = middle;
        num_over = reached;
      }
    }
    kernels_.select(scores, count, static_cast<int16_t>(at_least), num_select - num_over, base, out);
  }

  const SparseDecodeParams& params_;
  const KernelTable& kernels_;
  const int32_t max_score_;
};

// Rows that compete, and where their scores and choices go.
void PlanContests(const SparseDecodeParams& params, std::vector<Contest>* contests, int64_t* num_scores) {
  static thread_local Scratch score_scratch, selected_scratch;
  contests->clear();
  int64_t num_selected = 0;
  *num_scores = 0;
  for (int64_t row = 0; row < params.num_rows; ++row) {
    const Competition competition =
        CompetitionOf(params.context_len[row], params.num_select[row], params.sink_tokens, params.recent_tokens);
    if (competition.num_select == 0) continue;
    for (int64_t kv_head = 0; kv_head < params.num_kv_heads; ++kv_head) {
      contests->push_back({row, kv_head, competition, nullptr, nullptr});
    }
    *num_scores += int64_t{competition.count} * params.num_kv_heads;
    num_selected += int64_t{competition.num_select} * params.num_kv_heads;
  }
  int16_t* scores = score_scratch.Get<int16_t>(*num_scores);
  int32_t* selected = selected_scratch.Get<int32_t>(num_selected);
  for (Contest& contest : *contests) {
    contest.scores = scores;
    contest.selected = selected;
    scores += contest.competition.count;
    selected += contest.competition.num_select;
  }
}

void WriteSelection(const SparseDecodeParams& params, const std::vector<Contest>& contests) {
  const int64_t num_row_heads = int64_t{params.num_rows} * params.num_kv_heads;
  if (params.selected != nullptr) std::fill_n(params.selected, num_row_heads * params.max_select, -1);
  if (params.num_selected != nullptr) std::fill_n(params.num_selected, num_row_heads, 0);
  for (const Contest& contest : contests) {
    const int64_t row_head = contest.row * params.num_kv_heads + contest.kv_head;
    const int32_t count = contest.competition.num_select;
    if (params.selected != nullptr) {
      std::copy_n(contest.selected, std::min(count, params.max_select), params.selected + row_head * params.max_select);
    }
    if (params.num_selected != nullptr) params.num_selected[row_head] = count;
  }
}

}  // namespace

void SparseDecode(const SparseDecodeParams& params, Level level) {
  const KernelTable& kernels = KernelsOf(level);
  const Retrieval retrieval(params, kernels);
  static thread_local std::vector<Contest> contests;
  static thread_local std::vector<ScoreItem> items;
  static thread_local std::vector<AttentionRow> row_heads;

  auto start = std::chrono::steady_clock::now();
  int64_t num_scores = 0;
  PlanContests(params, &contests, &num_scores);
  items.clear();
  for (size_t i = 0; i < contests.size();) {
    const Competition& competition = contests[i].competition;
    const int32_t num_heads =
        std::min<int32_t>(kScoreHeads, params.num_kv_heads - static_cast<int32_t>(contests[i].kv_head));
    const int32_t end = competition.begin + competition.count;
    // Cut at multiples of kScoreTokens, which are page boundaries.
    for (int32_t token = competition.begin; token < end;) {
      const int32_t next = std::min(end, (token / kScoreTokens + 1) * kScoreTokens);
      items.push_back({static_cast<int64_t>(i), num_heads, token, next});
      token = next;
    }
    i += num_heads;
  }
  // thread_local names inside the bodies would be the worker's own: pass this thread's through pointers.
  const Contest* const contest_data = contests.data();
  const ScoreItem* const item_data = items.data();
  ParallelItems(params.execution, static_cast<int64_t>(items.size()), [&](int64_t begin, int64_t end) {
    for (const ScoreItem* item = item_data + begin; item != item_data + end; ++item) {
      retrieval.Score(*item, contest_data + item->contest);
    }
  });
  const double score_seconds = SecondsSince(start);

  start = std::chrono::steady_clock::now();
  const auto select = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) retrieval.Select(contest_data[i]);
  };
  const int64_t num_contests = static_cast<int64_t>(contests.size());
  if (num_scores <= kSerialSelectScores) {
    select(0, num_contests);
  } else {
    ParallelItems(params.execution, num_contests, select);
  }
  WriteSelection(params, contests);
  const double select_seconds = SecondsSince(start);

  start = std::chrono::steady_clock::now();
  row_heads.clear();
  for (int64_t row = 0; row < params.num_rows; ++row) {
    AttentionRow attention_row;
    attention_row.page_table = params.page_table + row * params.max_pages;
    attention_row.tokens = AllTokens(params.context_len[row]);
    row_heads.insert(row_heads.end(), params.num_kv_heads, attention_row);
  }
  for (const Contest& contest : contests) {
    row_heads[contest.row * params.num_kv_heads + contest.kv_head].tokens =
        TokensOf(contest.competition, contest.selected, params.context_len[contest.row]);
  }
  const AttentionShape shape{params.dtype, params.num_q_heads, params.num_kv_heads, params.head_dim,
                             params.softmax_scale};
  AttendRows(params.execution, kernels, shape, params.q, params.pages, row_heads.data(), params.num_rows, params.out);
  if (params.stage_seconds != nullptr) *params.stage_seconds = {score_seconds, select_seconds, SecondsSince(start)};
}

}  // namespace spotlight::kernels::cpu
