#include "engine/build_batch.h"

#include <algorithm>

#include "engine/page_pool.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

SampleRow MakeSampleRow(const Sequence& sequence, int32_t token_index) {
  SampleRow row;
  row.token_index = token_index;
  row.sampling = &sequence.sampling;
  row.seed = sequence.seed;
  row.output_index = sequence.num_output_tokens();
  row.sequence_id = sequence.id;
  if (sequence.num_pending > 0) row.fed_sample = sequence.pending_sample;
  row.num_logprobs = sequence.num_logprobs;
  if (sequence.has_penalty) {
    row.prompt_token_ids = &sequence.distinct_prompt_token_ids.ids();
    row.output_token_ids = &sequence.output_token_ids;
  }
  if (row.output_index < sequence.min_tokens) row.banned_token_ids = &sequence.banned_token_ids;
  return row;
}

void AddScored(const PlanRow& row, int32_t first_token, std::vector<ScoredToken>* scored) {
  const Sequence& sequence = *row.sequence;
  if (sequence.num_unscored() == 0) return;
  const int32_t end = std::min(row.begin + row.num_tokens, sequence.num_prompt_tokens() - 1);
  // What is before the row is computed, though perhaps not yet handed out.
  for (int32_t position = std::max(sequence.num_scored, row.begin); position < end; ++position) {
    scored->push_back(
        {first_token + position - row.begin, sequence.prompt_token_ids[position + 1], sequence.num_prompt_logprobs});
  }
}

void AddSparseRow(const RetrievalDecision& retrieval, std::vector<SparseRun>* runs, int32_t num_dense_rows) {
  const bool same = !runs->empty() && runs->back().sink_tokens == retrieval.sink_tokens &&
                    runs->back().recent_tokens == retrieval.recent_tokens;
  if (!same) {
    const int32_t begin = runs->empty() ? num_dense_rows : runs->back().end;
    runs->push_back({begin, retrieval.sink_tokens, retrieval.recent_tokens});
  }
  ++runs->back().end;
}

}  // namespace

void BuildBatch(const StepPlan& plan, Batch* batch) {
  batch->num_dense_rows = plan.num_dense_rows;
  batch->num_decode_rows = plan.num_decode_rows;
  batch->num_rows = static_cast<int32_t>(plan.rows.size());
  batch->token_ids.clear();
  batch->positions.clear();
  batch->slots.clear();
  batch->context_len.clear();
  batch->num_select.clear();
  batch->samples.clear();
  batch->scored.clear();
  batch->sparse_runs.clear();
  batch->query_begin.assign(1, 0);
  batch->time_retrieval = false;
  batch->quality.reset();

  batch->max_pages = 0;
  for (const PlanRow& row : plan.rows) {
    batch->max_pages = std::max(batch->max_pages, PagesFor(row.begin + row.num_tokens));
  }
  batch->page_table.assign(static_cast<size_t>(batch->num_rows) * batch->max_pages, 0);

  bool own_ends = false;
  auto* table = batch->page_table.data();
  for (const PlanRow& row : plan.rows) {
    const Sequence& sequence = *row.sequence;
    const int32_t end = row.begin + row.num_tokens;
    for (int32_t position = row.begin; position < end; ++position) {
      batch->token_ids.push_back(sequence.token_id(position));
      batch->positions.push_back(position);
      batch->slots.push_back(int64_t{sequence.pages[position / kernels::kPageTokens]} * kernels::kPageTokens +
                             position % kernels::kPageTokens);
    }
    batch->query_begin.push_back(batch->num_tokens());
    batch->context_len.push_back(end);
    batch->num_select.push_back(row.retrieval.num_select);
    std::copy_n(sequence.pages.begin(), PagesFor(end), table);
    table += batch->max_pages;
    if (row.samples) batch->samples.push_back(MakeSampleRow(sequence, batch->num_tokens() - 1));
    AddScored(row, batch->num_tokens() - row.num_tokens, &batch->scored);
    if (row.retrieval.num_select > 0) AddSparseRow(row.retrieval, &batch->sparse_runs, batch->num_dense_rows);
    own_ends = own_ends || row.retrieval.own_ends;
  }
  if (!own_ends) batch->sparse_runs.clear();
}

}  // namespace spotlight::engine
