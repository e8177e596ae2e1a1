// Why a generation call was refused before any work: the label of spotlight_requests_rejected_total.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/call_record.h"

namespace spotlight::server {

// queue_requests, queue_tokens, encoding_queue, caller_share, deadline, kv_capacity, auth, invalid, loading, draining,
// unhealthy, caller_rate, caller_concurrency.
absl::Span<const absl::string_view> RejectionReasons();

// Empty: not refused. A full resource is named by the status's message ("queue_tokens: ..."; see grpc_status.h), and so
// is a model that is still "loading: ...". Of what is left, a server that is not draining is UNAVAILABLE only with an
// engine that has stopped.
absl::string_view RejectionReason(const CallRecord& record, bool draining);

}  // namespace spotlight::server
