// Why a call was refused before any work: the label of spotlight_requests_rejected_total.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/call_record.h"

namespace spotlight::server {

// Every value of the label.
absl::Span<const absl::string_view> RejectionReasons();

// Empty: not refused. Of other calls than generations only what is about the caller counts: auth, caller_rate and
// caller_concurrency. A full resource is named by the status's message ("queue_tokens: ..."; see grpc_status.h), and so
// is a model that is still "loading: ..."; a resource that is not in the list is "other". Of what is left, a server
// that is not draining is UNAVAILABLE only with an engine that has stopped.
absl::string_view RejectionReason(const CallRecord& record, bool draining);

}  // namespace spotlight::server
