// Why a generation call was refused before any work: the label of spotlight_requests_rejected_total.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/call_record.h"

namespace spotlight::server {

// queue_requests, queue_tokens, deadline, kv_capacity, auth, invalid, draining.
absl::Span<const absl::string_view> RejectionReasons();

// Empty: not refused. A full resource is named by the status's message ("queue_tokens: ..."; see grpc_status.h).
absl::string_view RejectionReason(const CallRecord& record);

}  // namespace spotlight::server
