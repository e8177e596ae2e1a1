#include "client/stream_output.h"

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

}  // namespace

StreamResult PrintStream(GenerateClient* client, const v1::GenerateRequest& request, const CallOptions& options,
                         StreamFormat format, const Console& console) {
  StreamResult result;
  bool writable = true;
  absl::Status write_error;
  const absl::Status status = client->GenerateStream(request, options, [&](const v1::GenerateStreamResponse& message) {
    result.text += message.text();
    if (message.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) result.last = message;
    if (format == StreamFormat::kJsonLines) {
      writable = Write(console.out, JsonLine(message), &write_error);
    } else if (!message.text().empty()) {
      writable = Write(console.out, message.text(), &write_error);
    }
    return writable;
  });
  const bool line_open = format == StreamFormat::kText && !result.text.empty() && result.text.back() != '\n';
  if (writable && line_open) writable = Write(console.out, "\n", &write_error);
  if (!writable) {
    result.exit_code = write_error.ok() ? kExitCancelled : Fail(console, write_error);
  } else if (!status.ok()) {
    result.exit_code = Fail(console, status);
  } else {
    result.exit_code = TellEnd(result.last, console);
  }
  return result;
}

}  // namespace spotlight::client
