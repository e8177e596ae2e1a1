#include "server/request_log.h"

#include <chrono>

#include "nlohmann/json.hpp"
#include "server/grpc_status.h"
#include "server/log_sink.h"
#include "spdlog/async.h"
#include "spdlog/spdlog.h"

namespace spotlight::server {
namespace {

constexpr size_t kMaxBufferedLines = 8192;

std::string ToString(absl::string_view text) {
  return std::string(text.data(), text.size());
}

}  // namespace

std::string RequestLogLine(const CallRecord& record, double unix_seconds) {
  nlohmann::ordered_json line;
  line["time"] = unix_seconds;
  line["method"] = record.method;
  if (!record.request_id.empty()) line["request_id"] = record.request_id;
  if (!record.caller.empty()) line["caller"] = record.caller;
  if (!record.trace_id.empty()) line["trace_id"] = record.trace_id;
  line["code"] = ToString(CodeName(static_cast<grpc::StatusCode>(record.status.code())));
  if (!record.status.ok()) line["message"] = BoundedMessage(record.status);
  line["seconds"] = record.seconds;
  if (record.finish.has_value()) {
    const engine::Finish& finish = *record.finish;
    line["finish_reason"] = FinishReasonName(finish.reason);
    line["prompt_tokens"] = finish.usage.prompt_tokens;
    line["completion_tokens"] = finish.usage.completion_tokens;
    line["cached_prompt_tokens"] = finish.usage.cached_prompt_tokens;
    line["queue_seconds"] = finish.timings.queue;
    line["prefill_seconds"] = finish.timings.prefill;
    line["time_to_first_token_seconds"] = finish.timings.time_to_first_token;
    line["decode_seconds"] = finish.timings.decode;
    line["mean_inter_token_seconds"] = finish.timings.mean_inter_token;
    line["sparse_steps"] = finish.retrieval.sparse_steps;
    line["dense_steps"] = finish.retrieval.dense_steps;
    line["selected_ratio"] = finish.retrieval.selected_ratio;
    const engine::QualityStats& quality = finish.retrieval.quality;
    if (quality.num_samples > 0) {
      line["quality_samples"] = quality.num_samples;
      line["recall"] = quality.recall;
      line["attention_mass"] = quality.attention_mass;
      line["min_attention_mass"] = quality.min_attention_mass;
    }
    if (const engine::RetrievalFallback& fallback = finish.retrieval.fallback; fallback.count > 0) {
      line["fallback"] = fallback.dense ? "dense" : "budget";
      line["fallback_after_tokens"] = fallback.after_tokens;
    }
  }
  // Ids and messages may echo a client's bytes.
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

RequestLog::RequestLog(int fd)
    : dropped_(std::make_shared<DroppedLines>(
          [](const std::string& why) { spdlog::warn("the request log loses lines: {}", why); })) {
  spdlog::init_thread_pool(kMaxBufferedLines, 1);
  logger_ =
      std::make_shared<spdlog::async_logger>("requests", std::make_shared<LogSink>(fd, dropped_), spdlog::thread_pool(),
                                             spdlog::async_overflow_policy::overrun_oldest);
  logger_->set_pattern("%v");
  logger_->flush_on(spdlog::level::info);
}

RequestLog::~RequestLog() {
  logger_.reset();
  spdlog::shutdown();
}

void RequestLog::Write(const CallRecord& record) {
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  logger_->info(RequestLogLine(record, now));
  const size_t num_overrun = spdlog::thread_pool()->overrun_counter();
  size_t before = num_overrun_.load();
  while (num_overrun > before) {
    if (!num_overrun_.compare_exchange_weak(before, num_overrun)) continue;
    dropped_->Add(static_cast<int64_t>(num_overrun - before), "calls end faster than their lines can be written");
    break;
  }
}

}  // namespace spotlight::server
