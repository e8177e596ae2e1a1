#include <utility>

#include "client/commands.h"
#include "client/connection.h"
#include "client/generation_options.h"
#include "client/prompt_source.h"
#include "client/report.h"
#include "client/stream_output.h"

namespace spotlight::client {

ExitCode RunGenerate(Arguments arguments, const Console& console) {
  v1::GenerateRequest request;
  PromptSource prompt;
  ConnectionFlags connection(console);
  bool json = false;
  bool quiet = false;

  Command command{"generate",
                  "stream a completion",
                  "The text goes to stdout as it comes, counts and timings to stderr. Ctrl-C cancels the request on "
                  "the server.",
                  {},
                  {"spotlight generate --prompt 'The capital of France is' --max-tokens 16 --temperature 0",
                   "spotlight generate --chat-file chat.json --retrieval sparse --budget 0.02",
                   "spotlight generate --prompt-file book.txt --json | jq -j .text"}};
  command.groups = GenerationOptions(&request);
  command.groups.insert(command.groups.begin(), prompt.Options(/*with_token_ids=*/true));
  command.groups.front().options.push_back(Integer("truncate-prompt-tokens", "N", AtLeast(1),
                                                   "keep the last N tokens of a longer prompt",
                                                   [&](int32_t n) { request.set_truncate_prompt_tokens(n); }));
  command.groups.back().options.push_back(Text("request-id", "ID",
                                               "a name for abort and the server's log; default: the server makes one",
                                               [&](std::string id) { request.set_request_id(std::move(id)); }));
  command.groups.push_back(
      {"Output",
       {Integer("n", "N", Between(1, 64), "samples of the prompt, as text one after another; default 1",
                [&](int32_t n) { request.mutable_sampling()->set_n(n); }),
        Switch("echo", "the prompt first, as the model reads it", [&] { request.set_echo(true); }),
        Switch("json", "one JSON object per stream message on stdout, nothing on stderr", [&] { json = true; }),
        Integer("logprobs", "N", Between(0, 20), "log-probabilities of each token and its N best rivals; with --json",
                [&](int32_t n) { request.set_logprobs(n); }),
        Integer("prompt-logprobs", "N", Between(0, 20), "the same of each prompt token; with --json",
                [&](int32_t n) { request.set_prompt_logprobs(n); }),
        Switch("quiet", "no counts and timings", [&] { quiet = true; })}});
  command.groups.push_back(connection.Options());

  if (const auto exit_code = ParseOrExit(command, arguments, console)) return *exit_code;
  if (request.has_logprobs() && !json) return FailUsage(console, "--logprobs shows its figures with --json only");
  if (request.has_prompt_logprobs() && !json) {
    return FailUsage(console, "--prompt-logprobs shows its figures with --json only");
  }
  request.set_return_token_ids(json);
  const absl::Status prompt_status = prompt.Read(console, &request);
  if (absl::IsCancelled(prompt_status)) return Fail(console, prompt_status);
  if (!prompt_status.ok()) return FailUsage(console, prompt_status.message());

  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  const auto client = Connect(connection, &cancellation);
  if (!client.ok()) return Fail(console, client.status());
  const StreamResult result = PrintStream(client->get(), request, connection.Call(&cancellation),
                                          json ? StreamFormat::kJsonLines : StreamFormat::kText, console);
  if (!json && !quiet) *console.err << Report(result.finishes) << std::flush;
  return result.exit_code;
}

}  // namespace spotlight::client
