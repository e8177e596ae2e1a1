#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/message_json.h"
#include "client/prompt_source.h"

namespace spotlight::client {

ExitCode RunTokenize(Arguments arguments, const Console& console) {
  PromptSource prompt;
  ConnectionFlags connection(console);
  bool json = false;
  const Command command{
      "tokenize",
      "a prompt as the token ids that generate would see",
      "Prints the ids on stdout, separated by commas, and their count on stderr.",
      {prompt.Options(/*with_token_ids=*/false),
       {"Output",
        {Switch("json", "{\"token_ids\": [...], \"count\": N, \"max_context_tokens\": N}", [&] { json = true; })}},
       connection.Options()},
      {"spotlight tokenize --prompt 'Hello'", "spotlight tokenize --prompt-file book.txt --json | jq .count"}};
  if (const auto exit_code = ParseOrExit(command, arguments, console)) return *exit_code;
  v1::GenerateRequest source;
  const absl::Status prompt_status = prompt.Read(console, &source);
  if (absl::IsCancelled(prompt_status)) return Fail(console, prompt_status);
  if (!prompt_status.ok()) return FailUsage(console, prompt_status.message());
  v1::TokenizeRequest request;
  if (source.has_chat()) {
    request.mutable_chat()->Swap(source.mutable_chat());
  } else {
    request.set_text(std::move(*source.mutable_text()));
  }

  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  const auto client = Connect(connection, &cancellation);
  if (!client.ok()) return Fail(console, client.status());
  const auto response = (*client)->Tokenize(request, connection.Call(&cancellation));
  if (!response.ok()) return Fail(console, response.status());
  if (json) {
    nlohmann::ordered_json object = ToJson(*response, Defaults::kKeep);
    object["count"] = response->token_ids_size();
    return Print(console, ToLine(object) + "\n");
  }
  const ExitCode exit_code = Print(console, absl::StrJoin(response->token_ids(), ",") + "\n");
  *console.err << response->token_ids_size() << " tokens of at most " << response->max_context_tokens() << std::endl;
  return exit_code;
}

ExitCode RunDetokenize(Arguments arguments, const Console& console) {
  ConnectionFlags connection(console);
  std::string ids;
  bool given = false;
  bool json = false;
  const Command command{"detokenize",
                        "token ids as text",
                        "",
                        {{"Input",
                          {Text("token-ids", "ID,ID,...", "the ids; - reads stdin",
                                [&](std::string value) {
                                  ids = std::move(value);
                                  given = true;
                                })}},
                         {"Output", {Switch("json", "{\"text\": ...}", [&] { json = true; })}},
                         connection.Options()},
                        {"spotlight detokenize --token-ids 19556,28,905",
                         "spotlight tokenize --prompt Hello | spotlight "
                         "detokenize --token-ids -"}};
  if (const auto exit_code = ParseOrExit(command, arguments, console)) return *exit_code;
  if (!given) return FailUsage(console, "detokenize needs --token-ids");
  if (ids == "-") {
    const absl::Status status = ReadText(console, "-", &ids);
    if (absl::IsCancelled(status)) return Fail(console, status);
    if (!status.ok()) return FailUsage(console, status.message());
  }
  v1::DetokenizeRequest request;
  const absl::Status parsed = ParseTokenIds(ids, [&](int32_t id) { request.add_token_ids(id); });
  if (!parsed.ok()) return FailUsage(console, absl::StrCat("--token-ids ", parsed.message()));

  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  const auto client = Connect(connection, &cancellation);
  if (!client.ok()) return Fail(console, client.status());
  const auto response = (*client)->Detokenize(request, connection.Call(&cancellation));
  if (!response.ok()) return Fail(console, response.status());
  return Print(console, (json ? ToLine(ToJson(*response, Defaults::kKeep)) : response->text()) + "\n");
}

}  // namespace spotlight::client
