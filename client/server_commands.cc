#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/message_json.h"

namespace spotlight::client {
namespace {

using Rows = std::vector<std::pair<std::string, std::string>>;

std::string Table(absl::string_view title, const Rows& rows) {
  size_t width = 0;
  for (const auto& row : rows) width = std::max(width, row.first.size());
  std::string out = absl::StrCat(title, "\n");
  for (const auto& row : rows) {
    absl::StrAppend(&out, "  ", row.first, std::string(width - row.first.size() + 2, ' '), row.second, "\n");
  }
  return out;
}

std::string Percent(double ratio) {
  return absl::StrFormat("%.3g%%", ratio * 100);
}

std::string ParameterCount(int64_t count) {
  if (count >= 1000000000) return absl::StrFormat("%.3g billion", count / 1e9);
  return count >= 1000000 ? absl::StrFormat("%.4g million", count / 1e6) : absl::StrCat(count);
}

// {1, 2, 3, 7} -> "1-3, 7".
std::string Intervals(const google::protobuf::RepeatedField<int32_t>& numbers) {
  std::vector<std::string> intervals;
  for (int begin = 0, end = 0; begin < numbers.size(); begin = end) {
    for (end = begin + 1; end < numbers.size() && numbers[end] == numbers[end - 1] + 1;) ++end;
    intervals.push_back(end - begin > 1 ? absl::StrCat(numbers[begin], "-", numbers[end - 1])
                                        : absl::StrCat(numbers[begin]));
  }
  return absl::StrJoin(intervals, ", ");
}

std::string ServedIn(const v1::GetModelInfoResponse& model) {
  std::string parts;
  if (model.quantization() == "fp8") parts += ", layers in fp8";
  if (model.kv_cache_dtype() == "fp8") parts += ", KV cache in fp8";
  if (!parts.empty()) parts += ",";
  return absl::StrCat(model.dtype(), parts, " on ", model.device());
}

std::string ModelTable(const v1::GetModelInfoResponse& model) {
  Rows rows = {{"name", model.name()},
               {"architecture", model.architecture()},
               {"parameters", ParameterCount(model.num_parameters())},
               {"served in", ServedIn(model)},
               {"context", absl::StrCat(model.max_context_tokens(), " tokens")},
               {"layers", absl::StrCat(model.num_layers())},
               {"heads", absl::StrCat(model.num_query_heads(), " query, ", model.num_kv_heads(), " key/value, of ",
                                      model.head_dim())},
               {"vocabulary", absl::StrCat(model.vocab_size(), " tokens, end of sequence ",
                                           absl::StrJoin(model.eos_token_ids(), ", "))},
               {"chat template", model.has_chat_template() ? "yes" : "no"}};
  if (!model.has_hash()) {
    rows.push_back({"retrieval", "dense (no hash weights)"});
    return Table("model", rows);
  }
  const v1::HashInfo& hash = model.hash();
  rows.push_back({"retrieval", absl::StrCat(hash.hash_bits(), " bits, ", hash.num_planes(), " planes, layers ",
                                            Intervals(hash.layers()))});
  rows.push_back({"budget", absl::StrCat(Percent(hash.budget_ratio()), " of the context, sparse from ",
                                         hash.sparse_min_context(), " tokens on")});
  rows.push_back({"hash", hash.trained() ? "trained" : "UNTRAINED: the text's quality is meaningless"});
  return Table("model", rows);
}

std::string ServerTable(const v1::GetServerInfoResponse& server) {
  return Table("server",
               {{"version", absl::StrCat(server.version(), ", LibTorch ", server.libtorch_version())},
                {"up for", absl::FormatDuration(absl::Trunc(absl::Seconds(server.uptime_seconds()), absl::Seconds(1)))},
                {"KV cache", absl::StrCat(server.kv_cache_tokens(), " tokens, pages of ", server.page_tokens())},
                {"running", absl::StrCat("at most ", server.max_running_requests(), " requests, ",
                                         server.max_step_tokens(), " tokens a step")},
                {"waiting", absl::StrCat("at most ", server.max_waiting_requests(), " requests, ",
                                         server.max_waiting_tokens(), " tokens")}});
}

std::string LoadsTable(const v1::GetLoadsResponse& loads) {
  return Table(
      "load", {{"running", absl::StrCat(loads.running_requests(), " requests")},
               {"waiting", absl::StrCat(loads.waiting_requests(), " requests, ", loads.waiting_tokens(), " tokens")},
               {"KV cache", absl::StrCat(Percent(loads.kv_cache_usage_ratio()), " used, ", loads.free_kv_cache_tokens(),
                                         " tokens free")},
               {"draining", loads.draining() ? "yes" : "no"}});
}

}  // namespace

ExitCode RunModels(Arguments arguments, const Console& console) {
  ConnectionFlags connection(console);
  bool json = false;
  const Command command{"models",
                        "what the server serves",
                        "",
                        {{"Output", {Switch("json", "{\"model\": {...}, \"server\": {...}}", [&] { json = true; })}},
                         connection.Options()},
                        {"spotlight models --json | jq -r .model.name"}};
  if (const auto exit_code = ParseOrExit(command, arguments, console)) return *exit_code;
  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  const auto client = Connect(connection, &cancellation);
  if (!client.ok()) return Fail(console, client.status());
  const auto model = (*client)->GetModelInfo(connection.Call(&cancellation));
  if (!model.ok()) return Fail(console, model.status());
  const auto server = (*client)->GetServerInfo(connection.Call(&cancellation));
  if (!server.ok()) return Fail(console, server.status());
  if (!json) return Print(console, ModelTable(*model) + ServerTable(*server));
  nlohmann::ordered_json object;
  object["model"] = ToJson(*model, Defaults::kKeep);
  object["server"] = ToJson(*server, Defaults::kKeep);
  return Print(console, ToLine(object) + "\n");
}

ExitCode RunLoads(Arguments arguments, const Console& console) {
  ConnectionFlags connection(console);
  bool json = false;
  const Command command{"loads",
                        "how busy the server is",
                        "",
                        {{"Output", {Switch("json", "one JSON object", [&] { json = true; })}}, connection.Options()},
                        {}};
  if (const auto exit_code = ParseOrExit(command, arguments, console)) return *exit_code;
  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  const auto client = Connect(connection, &cancellation);
  if (!client.ok()) return Fail(console, client.status());
  const auto loads = (*client)->GetLoads(connection.Call(&cancellation));
  if (!loads.ok()) return Fail(console, loads.status());
  return Print(console, json ? ToLine(ToJson(*loads, Defaults::kKeep)) + "\n" : LoadsTable(*loads));
}

ExitCode RunAbort(Arguments arguments, const Console& console) {
  ConnectionFlags connection(console);
  std::string request_id;
  const Command command{
      "abort",
      "end a running or waiting request",
      "Its stream ends with finish reason \"aborted\". Exit code 3 when the caller has no such request.",
      {{"Request",
        {Text("request-id", "ID", "as given to generate, or as its first message says",
              [&](std::string id) { request_id = std::move(id); })}},
       connection.Options()},
      {"spotlight abort --request-id nightly-42"}};
  if (const auto exit_code = ParseOrExit(command, arguments, console)) return *exit_code;
  if (request_id.empty()) return FailUsage(console, "abort needs --request-id");
  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  const auto client = Connect(connection, &cancellation);
  if (!client.ok()) return Fail(console, client.status());
  const absl::Status status = (*client)->Abort(request_id, connection.Call(&cancellation));
  if (!status.ok()) return Fail(console, status);
  return Print(console, absl::StrCat("aborted ", request_id, "\n"));
}

ExitCode RunHealth(Arguments arguments, const Console& console) {
  ConnectionFlags connection(console);
  std::string service;
  const Command command{"health",
                        "whether the server is serving",
                        "Asks grpc.health.v1 and prints the state. Exit code 0 for SERVING, 5 for any other.",
                        {{"Request",
                          {Text("service", "NAME", "liveness, readiness or a service's name; default: the whole server",
                                [&](std::string name) { service = std::move(name); })}},
                         connection.Options()},
                        {"spotlight health --service readiness"}};
  if (const auto exit_code = ParseOrExit(command, arguments, console)) return *exit_code;
  Cancellation cancellation;
  const Interrupts::Scope interruptible(console.interrupts, &cancellation);
  const auto client = Connect(connection, &cancellation);
  if (!client.ok()) return Fail(console, client.status());
  const auto state = (*client)->CheckHealth(service, connection.Call(&cancellation));
  if (!state.ok()) return Fail(console, state.status());
  const ExitCode exit_code = Print(console, *state + "\n");
  return exit_code == kExitOk && *state != "SERVING" ? kExitUnreachable : exit_code;
}

}  // namespace spotlight::client
