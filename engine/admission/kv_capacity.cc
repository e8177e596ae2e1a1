#include "engine/admission/kv_capacity.h"

#include "absl/strings/cord.h"

namespace spotlight::engine {
namespace {

constexpr char kPayload[] = "spotlight/over_kv_capacity";

}  // namespace

absl::Status OverKvCapacity(absl::Status status) {
  status.SetPayload(kPayload, absl::Cord());
  return status;
}

bool IsOverKvCapacity(const absl::Status& status) {
  return status.GetPayload(kPayload).has_value();
}

}  // namespace spotlight::engine
