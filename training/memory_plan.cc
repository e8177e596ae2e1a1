#include "training/memory_plan.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace spotlight::training {
namespace {

// LibTorch's allocator of pinned memory rounds up to a power of two.
int64_t PinnedBytes(int64_t bytes) {
  int64_t rounded = 1;
  while (rounded < bytes) rounded *= 2;
  return rounded;
}

// Held out, and the larger of what stands before the first step and what every step has in its hands.
int64_t FixedSequences(const MemoryNeeds& needs) {
  return needs.num_heldout + std::max(needs.num_samples, 1);
}

}  // namespace

std::string FormatBytes(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value < 1e6) return absl::StrFormat("%.0f KB", value / 1e3);
  return value < 1e9 ? absl::StrFormat("%.1f MB", value / 1e6) : absl::StrFormat("%.2f GB", value / 1e9);
}

absl::StatusOr<MemoryPlan> PlanMemory(const MemoryNeeds& needs, int64_t free_device_bytes, int64_t free_host_bytes) {
  MemoryPlan plan;
  plan.device_bytes = needs.step_bytes + needs.pass_bytes + FixedSequences(needs) * needs.sequence_bytes;
  if (plan.device_bytes > free_device_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "memory on ", needs.device, ": training needs ", FormatBytes(plan.device_bytes), " (a step ",
        FormatBytes(needs.step_bytes), ", the model's pass ", FormatBytes(needs.pass_bytes), ", ",
        FixedSequences(needs), " sequences of ", FormatBytes(needs.sequence_bytes), ") beside the model's ",
        FormatBytes(needs.weight_bytes), ", and ", FormatBytes(std::max<int64_t>(free_device_bytes, 0)),
        needs.limited ? " are left of --max-memory" : " are free",
        "; shorter sequences need less (--tokens-per-sequence)"));
  }
  if (!needs.sequences_recur) return plan;
  const int64_t room = (free_device_bytes - plan.device_bytes) / needs.sequence_bytes;
  plan.sequences_on_device = static_cast<int32_t>(std::min<int64_t>(room, needs.num_sequences));
  plan.device_bytes += plan.sequences_on_device * needs.sequence_bytes;
  const int64_t pinned = PinnedBytes(needs.sequence_bytes);
  plan.sequences_on_host = static_cast<int32_t>(std::min<int64_t>(std::max<int64_t>(free_host_bytes, 0) / pinned,
                                                                  needs.num_sequences - plan.sequences_on_device));
  plan.host_bytes = plan.sequences_on_host * pinned;
  return plan;
}

std::string DescribeMemory(const MemoryNeeds& needs, const MemoryPlan& plan, int64_t free_device_bytes) {
  const int32_t kept = plan.sequences_on_device + plan.sequences_on_host;
  std::vector<std::string> where;
  if (plan.sequences_on_device > 0) where.push_back(absl::StrCat(plan.sequences_on_device, " kept there"));
  if (plan.sequences_on_host > 0) {
    where.push_back(absl::StrCat(plan.sequences_on_host, " in ", FormatBytes(plan.host_bytes), " of host memory"));
  }
  if (!needs.sequences_recur) {
    where.push_back("each used once and not kept");
  } else if (kept < needs.num_sequences) {
    where.push_back(absl::StrCat(needs.num_sequences - kept, " run through the model again whenever they are used"));
  }
  return absl::StrCat(
      "memory on ", needs.device, ": ", FormatBytes(needs.weight_bytes), " of weights, ", FormatBytes(needs.step_bytes),
      " for a step, ", FormatBytes(needs.pass_bytes), " for the model's pass; ", needs.num_sequences, " sequences of ",
      FormatBytes(needs.sequence_bytes), ", ", absl::StrJoin(where, ", "), "; ", FormatBytes(plan.device_bytes),
      " of the ", FormatBytes(free_device_bytes), needs.limited ? " left of --max-memory" : " free in all");
}

}  // namespace spotlight::training
