#include "client/stream_output.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/message_json.h"

namespace spotlight::client {
namespace {

std::string JsonLine(const v1::GenerateStreamResponse& message) {
  nlohmann::ordered_json json = ToJson(message, Defaults::kOmit);
  json["text"] = message.text();  // in every message, so that a reader may join without asking
  return ToLine(json) + "\n";
}

ExitCode TellEnd(const v1::GenerateStreamResponse& last, const Console& console) {
  const ExitCode exit_code = ExitCodeOf(last.finish_reason());
  if (exit_code == kExitOk) return exit_code;
  *console.err << "spotlight: "
               << (exit_code == kExitCancelled  ? "cancelled"
                   : exit_code == kExitDeadline ? "the deadline passed"
                                                : "the stream ended without a finish reason")
               << "\n"
               << std::flush;
  return exit_code;
}

// Samples come interleaved and are written one after another: the text that is due with each message.
class TextOrder {
 public:
  explicit TextOrder(int num_samples) : num_samples_(num_samples) {}

  std::string Take(const v1::GenerateStreamResponse& message) {
    std::string due = message.prompt_info().text();
    if (num_samples_ == 1) return due + message.text();
    Held& held = held_[message.index()];
    held.text += message.text();
    held.ended = message.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
    while (current_ < num_samples_) {
      Held& next = held_[current_];
      if (!std::exchange(next.begun, true)) {
        absl::StrAppend(&due, EndsLine(due) ? "" : "\n", "--- sample ", current_, "\n");
      }
      due += std::exchange(next.text, "");
      if (!due.empty()) ends_line_ = due.back() == '\n';
      if (!next.ended) break;
      ++current_;
    }
    return due;
  }

 private:
  struct Held {
    std::string text;
    bool begun = false, ended = false;
  };
  // Whether the output ends with a newline, `due` included.
  bool EndsLine(const std::string& due) const { return due.empty() ? ends_line_ : due.back() == '\n'; }

  const int num_samples_;
  std::map<int, Held> held_;
  int current_ = 0;
  bool ends_line_ = true;
};

}  // namespace

StreamResult PrintStream(GenerateClient* client, const v1::GenerateRequest& request, const CallOptions& options,
                         StreamFormat format, const Console& console) {
  StreamResult result;
  bool writable = true;
  bool line_open = false;
  TextOrder order(request.sampling().has_n() ? request.sampling().n() : 1);
  absl::Status write_error;
  const absl::Status status = client->GenerateStream(request, options, [&](const v1::GenerateStreamResponse& message) {
    if (message.index() == 0) result.text += message.text();
    if (message.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) result.finishes.push_back(message);
    if (format == StreamFormat::kJsonLines) {
      writable = Write(console.out, JsonLine(message), &write_error);
    } else if (const std::string text = order.Take(message); !text.empty()) {
      writable = Write(console.out, text, &write_error);
      line_open = text.back() != '\n';
    }
    return writable;
  });
  if (writable && line_open) writable = Write(console.out, "\n", &write_error);
  if (!writable) {
    result.exit_code = write_error.ok() ? kExitCancelled : Fail(console, write_error);
  } else if (!status.ok()) {
    result.exit_code = Fail(console, status);
  } else {
    result.exit_code =
        TellEnd(result.finishes.empty() ? v1::GenerateStreamResponse() : result.finishes.back(), console);
  }
  return result;
}

}  // namespace spotlight::client
