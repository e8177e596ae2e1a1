#include "engine/sample_slots.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "engine/philox.h"
#include "engine/sampler.h"

namespace spotlight::engine {
namespace {

bool HasBans(const SampleRow& row) {
  return row.banned_token_ids != nullptr && !row.banned_token_ids->empty();
}

bool NeedsSlot(const SampleRow& row) {
  return IsPenalised(row) || HasBans(row) || !row.sampling->logit_bias.empty();
}

// An id once, as the kernel wants it.
std::map<int32_t, float> Biases(const SampleRow& row) {
  std::map<int32_t, float> biases;
  for (const auto& [id, bias] : row.sampling->logit_bias) biases[id] += bias;
  return biases;
}

kernels::SampleRowParams ParamsOf(const SampleRow& row) {
  const SamplingParams& sampling = *row.sampling;
  kernels::SampleRowParams params;
  params.draw = UniformDraw(row.seed, static_cast<uint64_t>(row.output_index));
  params.scale = *sampling.temperature < kGreedyTemperature ? 0 : 1.0f / *sampling.temperature;
  params.top_p = *sampling.top_p;
  params.top_k = *sampling.top_k;
  if (*sampling.min_p > 0 && params.scale > 0) params.min_p_distance = std::log(*sampling.min_p) / params.scale;
  params.has_penalty = IsPenalised(row) ? 1 : 0;
  params.repetition = *sampling.repetition_penalty;
  params.presence = sampling.presence_penalty;
  params.frequency = sampling.frequency_penalty;
  params.num_bans = HasBans(row) ? static_cast<int32_t>(row.banned_token_ids->size()) : 0;
  params.num_top = row.num_logprobs;
  return params;
}

}  // namespace

SampleSlots::SampleSlots(int32_t num_slots) : slots_(num_slots) {}

absl::Status SampleSlots::Assign(const Batch& batch, std::vector<kernels::SampleRowParams>* rows,
                                 std::vector<Fresh>* fresh) {
  rows->clear();
  fresh->clear();
  ++num_steps_;
  // Those that have a slot keep it: what is taken from others is taken after all of them are known.
  for (const SampleRow& row : batch.samples) {
    rows->push_back(ParamsOf(row));
    kernels::SampleRowParams& params = rows->back();
    params.out = static_cast<int32_t>(rows->size()) - 1;
    if (!NeedsSlot(row)) continue;
    params.slot = Held(row);
    if (params.slot >= 0) slots_[params.slot].last_step = num_steps_;
  }
  for (size_t i = 0; i < batch.samples.size(); ++i) {
    const SampleRow& row = batch.samples[i];
    if (!NeedsSlot(row)) continue;
    kernels::SampleRowParams& params = (*rows)[i];
    if (params.slot < 0) {
      if (auto status = Take(row, &params.slot); !status.ok()) return status;
      fresh->push_back({params.slot, &row});
    }
    slots_[params.slot].next_output_index = row.output_index + 1;
    params.num_biases = slots_[params.slot].num_biases;
  }
  for (const ScoredToken& token : batch.scored) {
    kernels::SampleRowParams params;
    params.scored_token = token.token_id;
    params.num_top = token.num_top;
    params.out = static_cast<int32_t>(rows->size());
    rows->push_back(params);
  }
  return absl::OkStatus();
}

int32_t SampleSlots::Held(const SampleRow& row) const {
  const auto found = slot_of_.find(row.sequence_id);
  if (found == slot_of_.end() || slots_[found->second].next_output_index != row.output_index) return -1;
  return found->second;
}

absl::Status SampleSlots::Take(const SampleRow& row, int32_t* index) {
  if (row.fed_sample >= 0) {
    return absl::InternalError(absl::StrCat("the tokens of sequence ", row.sequence_id, " were not counted"));
  }
  const auto older = [](const Slot& a, const Slot& b) { return a.last_step < b.last_step; };
  const auto slot = std::min_element(slots_.begin(), slots_.end(), older);
  if (slot == slots_.end() || slot->last_step == num_steps_) {
    return absl::InternalError(absl::StrCat("more samples in a step than ", slots_.size(), " slots"));
  }
  *index = static_cast<int32_t>(slot - slots_.begin());
  const auto held = slot_of_.find(slot->sequence_id);
  if (held != slot_of_.end() && held->second == *index) slot_of_.erase(held);
  slot_of_[row.sequence_id] = *index;
  *slot = {row.sequence_id, -1, static_cast<int32_t>(Biases(row).size()), num_steps_};
  const size_t num_entries = slot->num_biases + (HasBans(row) ? row.banned_token_ids->size() : 0);
  if (num_entries > static_cast<size_t>(kernels::kMaxSampleEntries)) {
    return absl::InternalError(absl::StrCat("sequence ", row.sequence_id, " has ", num_entries,
                                            " biased and banned tokens: at most ", kernels::kMaxSampleEntries));
  }
  return absl::OkStatus();
}

std::vector<kernels::SampleEntry> SampleEntriesOf(const SampleRow& row) {
  std::vector<kernels::SampleEntry> entries;
  for (const auto& [id, bias] : Biases(row)) entries.push_back({id, bias});
  if (!HasBans(row)) return entries;
  for (const int32_t id : *row.banned_token_ids) entries.push_back({id, 0});
  return entries;
}

}  // namespace spotlight::engine
