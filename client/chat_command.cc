#include <utility>

#include "absl/strings/str_cat.h"
#include "client/chat_session.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/generation_options.h"
#include "client/report.h"
#include "client/stream_output.h"
#include "client/utf8.h"

namespace spotlight::client {
namespace {

constexpr char kChatHelp[] =
    "/reset  forget the conversation\n"
    "/exit   leave; so do Ctrl-D, and Ctrl-C at the prompt\n"
    "/help   this list\n"
    "Ctrl-C stops a running answer. Begin a message with // to send one that starts with a slash.\n";

struct ChatFlags {
  explicit ChatFlags(const Console& console) : connection(console) {}

  ConnectionFlags connection;
  v1::GenerateRequest base;
  std::string system;
  bool timings = false;
};

absl::Status Greet(GenerateClient* client, const ChatFlags& flags, const Console& console) {
  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  const auto info = client->GetModelInfo(flags.connection.Call(&cancellation));
  if (!info.ok()) return info.status();
  if (!info->has_chat_template()) {
    return absl::FailedPreconditionError(absl::StrCat("the model ", info->name(), " has no chat template"));
  }
  if (console.in_is_terminal) {
    *console.err << info->name() << " at " << flags.connection.server << ", context of " << info->max_context_tokens()
                 << " tokens. /help lists the commands." << std::endl;
  }
  return absl::OkStatus();
}

ExitCode RunTurn(GenerateClient* client, const ChatFlags& flags, const std::string& line, const Console& console,
                 ChatSession* session) {
  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  StreamResult result = PrintStream(client, session->NextRequest(line), flags.connection.Call(&cancellation),
                                    StreamFormat::kText, console);
  if (flags.timings) *console.err << Report(result.finishes) << std::flush;
  session->FinishTurn(line, std::move(result.text));
  return result.exit_code;
}

// A person at a terminal goes on after a failed turn; a script ends with its exit code.
ExitCode Converse(GenerateClient* client, const ChatFlags& flags, const Console& console) {
  ChatSession session(flags.base, flags.system);
  InputReader reader(console.in_fd, console.interrupts);
  std::string line;
  for (;;) {
    // As a shell does, so that redirected output holds answers only.
    if (console.in_is_terminal) *console.err << "> " << std::flush;
    const ReadResult read = reader.ReadLine(&line);
    if (read != ReadResult::kLine) {
      if (console.in_is_terminal) *console.err << "\n" << std::flush;
      if (read == ReadResult::kFailed) return FailUsage(console, "cannot read the input");
      return read == ReadResult::kInterrupted && !console.in_is_terminal ? kExitCancelled : kExitOk;
    }
    ExitCode exit_code = kExitOk;
    if (!IsValidUtf8(line)) {
      exit_code = FailUsage(console, "a message must be valid UTF-8");
    } else {
      switch (ClassifyChatInput(line)) {
        case ChatInput::kEmpty:
          break;
        case ChatInput::kExit:
          return kExitOk;
        case ChatInput::kReset:
          session.Reset();
          break;
        case ChatInput::kHelp:
          *console.err << kChatHelp << std::flush;
          break;
        case ChatInput::kUnknown:
          exit_code = FailUsage(console, absl::StrCat("unknown command ", line.substr(0, line.find(' ')),
                                                      "; /help lists them, // sends a slash"));
          break;
        case ChatInput::kMessage:
          exit_code = RunTurn(client, flags, line, console, &session);
          break;
      }
    }
    const bool output_gone = !console.out->good();
    if (exit_code != kExitOk && (!console.in_is_terminal || output_gone)) return exit_code;
  }
}

}  // namespace

ExitCode RunChat(Arguments arguments, const Console& console) {
  ChatFlags flags(console);
  Command command{"chat",
                  "talk with the model",
                  "Reads one message a line and streams the answers, keeping the conversation. Ctrl-C stops an answer "
                  "on the server; at the prompt it leaves. Works with piped input too, one message a line.",
                  {},
                  {"spotlight chat --system 'Answer in one sentence.' --temperature 0",
                   "printf '%s\\n' 'Who wrote Faust?' 'When?' | spotlight chat"}};
  command.groups.push_back(
      {"Chat",
       {Text("system", "TEXT", "the system message; default: the template's own, if it has one",
             [&](std::string text) { flags.system = std::move(text); }),
        Switch("timings", "counts and timings on stderr after each answer", [&] { flags.timings = true; })}});
  for (OptionGroup& group : GenerationOptions(&flags.base)) command.groups.push_back(std::move(group));
  command.groups.push_back(flags.connection.Options());
  if (const auto exit_code = ParseOrExit(command, arguments, console)) return *exit_code;

  absl::StatusOr<std::unique_ptr<GenerateClient>> client;
  {
    Cancellation cancellation;
    const Interrupts::Scope interruptible(console.interrupts, &cancellation);
    client = Connect(flags.connection, &cancellation);
  }
  if (!client.ok()) return Fail(console, client.status());
  const absl::Status greeted = Greet(client->get(), flags, console);
  if (!greeted.ok()) return Fail(console, greeted);
  return Converse(client->get(), flags, console);
}

}  // namespace spotlight::client
