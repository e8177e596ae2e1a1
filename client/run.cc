#include "client/run.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/command_line.h"
#include "client/commands.h"
#include "client/connection.h"
#include "version.h"

namespace spotlight::client {
namespace {

struct Subcommand {
  const char* name;
  const char* summary;
  ExitCode (*run)(Arguments, const Console&);
};

constexpr Subcommand kSubcommands[] = {
    {"generate", "stream a completion", RunGenerate},   {"chat", "talk with the model", RunChat},
    {"models", "what the server serves", RunModels},    {"tokenize", "a prompt as token ids", RunTokenize},
    {"detokenize", "token ids as text", RunDetokenize}, {"abort", "end a running or waiting request", RunAbort},
    {"loads", "how busy the server is", RunLoads},      {"health", "whether the server is serving", RunHealth},
};

std::string ProgramHelp() {
  std::string help =
      "spotlight: the command line of a Spotlight inference server\n"
      "\n"
      "Usage: spotlight COMMAND [flags]\n"
      "\n"
      "Commands\n";
  for (const Subcommand& subcommand : kSubcommands) {
    std::string name = subcommand.name;
    name.resize(12, ' ');
    absl::StrAppend(&help, "  ", name, subcommand.summary, "\n");
  }
  return absl::StrCat(help,
                      "\n"
                      "spotlight COMMAND --help lists a command's flags. spotlight --version prints the version.\n"
                      "\n"
                      "Environment\n"
                      "  SPOTLIGHT_SERVER  the server when --server is not given, as HOST:PORT; default "
                      "127.0.0.1:50051\n"
                      "  SPOTLIGHT_TOKEN   the token that the server asks for, when --token-file is not given\n"
                      "\n",
                      kExitCodesHelp);
}

}  // namespace

int Run(const std::vector<std::string>& arguments, const Console& console) {
  if (arguments.empty()) {
    *console.err << ProgramHelp() << std::flush;
    return kExitUsage;
  }
  const std::string& name = arguments[0];
  if (name == "--help" || name == "-h" || (name == "help" && arguments.size() == 1)) {
    return Print(console, ProgramHelp());
  }
  if (name == "--version") return Print(console, absl::StrCat("spotlight ", kVersion, "\n"));
  if (name == "help") return Run({arguments[1], "--help"}, console);
  if (absl::StartsWith(name, "-")) {
    return FailUsage(console, absl::StrCat("the command comes first, before ", name, "; see spotlight --help"));
  }
  std::vector<std::string> names;
  for (const Subcommand& subcommand : kSubcommands) {
    if (name == subcommand.name) return subcommand.run(absl::MakeConstSpan(arguments).subspan(1), console);
    names.push_back(subcommand.name);
  }
  const std::string nearest = NearestName(name, names);
  return FailUsage(console, absl::StrCat("unknown command ", name,
                                         nearest.empty() ? std::string("; see spotlight --help")
                                                         : absl::StrCat("; did you mean ", nearest, "?")));
}

}  // namespace spotlight::client
