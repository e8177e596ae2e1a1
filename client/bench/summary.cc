#include "client/bench/summary.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"

namespace spotlight::client::bench {
namespace {

bool Meets(const Goodput& goodput, const RequestRecord& record) {
  const auto within = [](const absl::optional<double>& bound_ms, double seconds) {
    return !bound_ms.has_value() || seconds * 1e3 <= *bound_ms;
  };
  return within(goodput.ttft, TtftOf(record)) && within(goodput.tpot, TpotOf(record)) &&
         within(goodput.e2el, E2elOf(record));
}

// The times at which messages with tokens came, and how many tokens each brought on average.
double PeakThroughput(const std::vector<RequestRecord>& records, double duration) {
  std::vector<double> tokens_per_second(static_cast<size_t>(duration) + 1);
  for (const RequestRecord& record : records) {
    if (!record.completed() || record.output_tokens == 0) continue;
    const double tokens_per_message = record.output_tokens / (record.gaps.size() + 1.0);
    double time = record.first_token;
    for (size_t i = 0; i <= record.gaps.size(); ++i) {
      tokens_per_second[std::min(static_cast<size_t>(time), tokens_per_second.size() - 1)] += tokens_per_message;
      if (i < record.gaps.size()) time += record.gaps[i];
    }
  }
  return *std::max_element(tokens_per_second.begin(), tokens_per_second.end());
}

int64_t PeakConcurrency(const std::vector<RequestRecord>& records) {
  std::vector<std::pair<double, int>> changes;  // an end sorts before a beginning of the same time
  for (const RequestRecord& record : records) {
    changes.emplace_back(record.sent, 1);
    changes.emplace_back(record.end, -1);
  }
  std::sort(changes.begin(), changes.end());
  int64_t running = 0, peak = 0;
  for (const auto& change : changes) peak = std::max(peak, running += change.second);
  return peak;
}

void AddFailure(const RequestRecord& record, Summary* summary) {
  ++summary->failed;
  Failures& failures = summary->failures[CodeName(record.code)];
  if (failures.count++ == 0) failures.first_message = record.message;
  failures.seconds.push_back(record.end - record.sent);
}

}  // namespace

std::string CodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

double TtftOf(const RequestRecord& record) {
  return record.output_tokens > 0 ? record.first_token - record.intended : 0;
}

double TpotOf(const RequestRecord& record) {
  return record.output_tokens > 1 ? (record.last_token - record.first_token) / (record.output_tokens - 1) : 0;
}

double E2elOf(const RequestRecord& record) {
  return record.end - record.intended;
}

Summary SummarizeRun(const std::vector<RequestRecord>& records, const Goodput& goodput,
                     const std::vector<double>& percentiles) {
  Summary summary;
  std::vector<double> ttft, tpot, itl, e2el, ttft_from_send, e2el_from_send, queue, cancel;
  int64_t good = 0;
  for (const RequestRecord& record : records) {
    summary.duration = std::max(summary.duration, record.end);
    summary.received_tokens += record.output_tokens;
    queue.push_back(record.sent - record.intended);
    if (record.failed()) AddFailure(record, &summary);
    if (record.cancelled) {
      ++summary.cancelled;
      cancel.push_back(record.cancel_seconds);
    }
    if (!record.completed()) continue;
    ++summary.completed;
    good += Meets(goodput, record);
    summary.prompt_tokens += record.prompt_tokens;
    summary.output_tokens += record.output_tokens;
    e2el.push_back(E2elOf(record));
    e2el_from_send.push_back(record.end - record.sent);
    if (record.output_tokens == 0) continue;
    summary.messages += static_cast<int64_t>(record.gaps.size()) + 1;
    ttft.push_back(TtftOf(record));
    ttft_from_send.push_back(record.first_token - record.sent);
    if (record.output_tokens > 1) tpot.push_back(TpotOf(record));
    itl.insert(itl.end(), record.gaps.begin(), record.gaps.end());
  }
  const double seconds = summary.duration > 0 ? summary.duration : 1;
  summary.request_throughput = summary.completed / seconds;
  summary.output_throughput = summary.output_tokens / seconds;
  summary.total_token_throughput = (summary.prompt_tokens + summary.output_tokens) / seconds;
  summary.request_goodput = good / seconds;
  summary.peak_output_throughput = PeakThroughput(records, summary.duration);
  summary.peak_concurrency = PeakConcurrency(records);
  summary.ttft = Summarize(std::move(ttft), percentiles);
  summary.tpot = Summarize(std::move(tpot), percentiles);
  summary.itl = Summarize(std::move(itl), percentiles);
  summary.e2el = Summarize(std::move(e2el), percentiles);
  summary.ttft_from_send = Summarize(std::move(ttft_from_send), percentiles);
  summary.e2el_from_send = Summarize(std::move(e2el_from_send), percentiles);
  summary.queue = Summarize(std::move(queue), percentiles);
  summary.cancel = Summarize(std::move(cancel), percentiles);
  return summary;
}

}  // namespace spotlight::client::bench
