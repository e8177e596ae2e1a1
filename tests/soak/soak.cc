// The real server on the tiny model under 200 streams that are cancelled, aborted, late, slow, silent and cut off.
//
// It must hold: every request ends exactly once, with the right status, at the client and in the server's log; no
// patient stream waits a second between two tokens; when all is over the server has no request, the pages of its cache
// and its memory are back where they were; and it stops when told to. bazel test //tests/soak:soak_test, or at length:
// make soak
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "tests/soak/device_memory.h"
#include "tests/soak/population.h"
#include "tests/soak/server_process.h"
#include "tests/soak/stop_check.h"
#include "tests/soak/verdict.h"

ABSL_FLAG(double, seconds, 20, "how long streams are started");
ABSL_FLAG(int32_t, streams, 200, "streams at a time");
ABSL_FLAG(uint64_t, seed, 1, "of the requests");
ABSL_FLAG(std::string, server, "server/spotlight-server", "the program");
ABSL_FLAG(std::string, model, "tests/testdata/tiny-llama", "the tiny model's folder");
ABSL_FLAG(std::string, server_flags, "", "more flags for it, by spaces; they win over the soak's own");
ABSL_FLAG(double, longest_gap_seconds, 1, "that a patient stream may wait for a message");
ABSL_FLAG(std::string, device_memory_command, "",
          "a shell's, prints how many MB of the device's memory are in use (by nvidia-smi); empty: not judged");
ABSL_FLAG(int32_t, device_memory_growth_mb, 256, "that it may have grown from the first rest to the last");
ABSL_FLAG(double, patience_seconds, 90, "in which all streams must end, once no more are started");

namespace spotlight::soak {
namespace {

// What of the server's memory may differ between two moments without a request: malloc's leftovers.
constexpr int64_t kMemorySlackBytes = int64_t{64} << 20;
// A cache that keeps prefixes takes unused pages first: in a run shorter than this it has not touched all of them by
// the end of the first part, and may grow by as much.
constexpr absl::Duration kLongRun = absl::Minutes(5);
// What streams that do not read may hold on top, all together: 4 MB each at the most.
constexpr int64_t kPeakSlackBytes = int64_t{400} << 20;
constexpr int kCacheTokens = 128 << 10;

// Notices when this process or a thread of the server does not get to run.
class StallWatch {
 public:
  explicit StallWatch(const ServerProcess* server) : server_(server), thread_([this] { Run(); }) {}
  ~StallWatch() {
    stopping_ = true;
    thread_.join();
  }
  std::vector<MachineStall> stalls() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return stalls_;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void Run() {
    constexpr auto kTick = std::chrono::milliseconds(50);
    constexpr auto kNotable = std::chrono::milliseconds(20);
    auto last = Clock::now();
    auto waits = server_->WaitsForCore();
    while (!stopping_) {
      std::this_thread::sleep_for(kTick);
      const auto now = Clock::now();
      Clock::duration longest = now - last - kTick;
      last = now;
      // A wait shows once it is over, whole.
      for (const auto& [thread, wait] : server_->WaitsForCore()) {
        longest = std::max<Clock::duration>(longest, wait - std::exchange(waits[thread], wait));
      }
      if (longest < kNotable) continue;
      std::lock_guard<std::mutex> lock(mutex_);
      stalls_.push_back({now - longest, now});
    }
  }

  const ServerProcess* const server_;
  mutable std::mutex mutex_;
  std::vector<MachineStall> stalls_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

struct AtRest {
  double running = 0, waiting = 0, cache_usage = 0, cache_bytes = 0;
  int64_t resident_bytes = 0;
};

absl::StatusOr<AtRest> ReadServer(const ServerProcess& server) {
  const auto metrics = server.Metrics();
  if (!metrics.ok()) return metrics.status();
  return AtRest{Sum(*metrics, "spotlight_requests_running"), Sum(*metrics, "spotlight_requests_waiting"),
                Sum(*metrics, "spotlight_kv_cache_usage_ratio"), Sum(*metrics, "spotlight_kv_cache_bytes"),
                server.resident_bytes()};
}

class Soak {
 public:
  Soak(const std::string& folder, absl::Duration duration)
      : duration_(duration), server_(absl::GetFlag(FLAGS_server), absl::GetFlag(FLAGS_model), folder, ServerFlags()) {}

  int Run() {
    if (const absl::Status ready = server_.WaitReady(absl::Seconds(120)); !ready.ok()) {
      std::fprintf(stderr, "%s\n", std::string(ready.message()).c_str());
      return 1;
    }
    const int port = std::stoi(server_.grpc_address().substr(server_.grpc_address().rfind(':') + 1));
    const auto start = ReadServer(server_);
    if (!start.ok()) Complain(start.status().ToString());
    Population population(server_.grpc_address(), port, absl::GetFlag(FLAGS_streams), absl::GetFlag(FLAGS_seed));
    // Memory that is taken once (threads' arenas, the cache's pages) is taken in the first part.
    RunStreams(&population, 0.4 * duration_);
    const AtRest warm = WaitForRest(start.ok() ? start->cache_usage : 0);
    const auto warm_device = DeviceMegabytes();
    RunStreams(&population, 0.6 * duration_);
    const AtRest rest = WaitForRest(start.ok() ? start->cache_usage : 0);
    CheckMemory(warm, rest);
    const std::string device_memory = CheckDeviceMemory(warm_device, DeviceMegabytes());
    const std::string peak = absl::StrCat(server_.peak_resident_bytes() >> 20);
    const int exit_code = server_.running() ? server_.Stop(absl::Seconds(60)) : -2;
    if (exit_code != 0) Complain(absl::StrCat("the server ended with ", exit_code, ":\n", server_.log()));
    Judge(population);

    std::printf("%zu requests, %d connections cut\n%s", population.ends().size(),
                static_cast<int>(population.num_severed()), FormatEnds(population.ends()).c_str());
    double longest_gap = 0;
    for (const StreamEnd& end : population.ends()) {
      if (ReadsAll(end)) longest_gap = std::max(longest_gap, end.longest_gap_seconds);
    }
    std::printf("longest wait of a patient stream between two messages: %.2f s\n", longest_gap);
    std::printf("resident memory: %d MB after the first part, %d MB at the end, %s MB at its peak\n",
                static_cast<int>(warm.resident_bytes >> 20), static_cast<int>(rest.resident_bytes >> 20), peak.c_str());
    std::printf("%s", device_memory.c_str());
    for (const std::string& wrong : wrongs_) std::printf("FAILED: %s\n", wrong.c_str());
    std::printf(wrongs_.empty() ? "everything held\n" : "%zu things did not hold\n", wrongs_.size());
    return wrongs_.empty() ? 0 : 1;
  }

 private:
  static std::vector<std::string> ServerFlags() {
    // bf16 would bring oneDNN's kernels, one for each number of tokens in a step: hundreds of MB until it has met them
    // all, which hide what a request may leave behind.
    std::vector<std::string> flags = {"--dtype",
                                      "fp32",
                                      "--max-running",
                                      "256",
                                      "--max-waiting-requests",
                                      "1024",
                                      "--max-tokens-in-cache",
                                      absl::StrCat(kCacheTokens)};
    const std::string more = absl::GetFlag(FLAGS_server_flags);
    for (const absl::string_view flag : absl::StrSplit(more, ' ', absl::SkipEmpty())) flags.emplace_back(flag);
    return flags;
  }

  void Complain(std::string wrong) { wrongs_.push_back(std::move(wrong)); }

  void RunStreams(Population* population, absl::Duration duration) {
    const absl::Duration patience = absl::Seconds(absl::GetFlag(FLAGS_patience_seconds));
    if (population->Run(duration, patience)) return;
    const int num_running = population->num_running();
    // A slow engine and one that stands still differ in this alone.
    constexpr absl::Duration kLook = absl::Seconds(2);
    const auto before = server_.Metrics();
    absl::SleepFor(kLook);
    Complain(absl::StrCat(num_running, " streams had no end within ", absl::FormatDuration(patience), "; ",
                          FormatProgress(before, server_.Metrics(), absl::ToDoubleSeconds(kLook))));
  }

  // The last request leaves within a step of its end at the client.
  AtRest WaitForRest(double cache_usage) {
    absl::StatusOr<AtRest> rest = absl::UnknownError("not read");
    for (const absl::Time end = absl::Now() + absl::Seconds(5); absl::Now() < end;) {
      rest = ReadServer(server_);
      if (rest.ok() && rest->running + rest->waiting == 0 && rest->cache_usage == cache_usage) return *rest;
      absl::SleepFor(absl::Milliseconds(50));
    }
    if (!rest.ok()) {
      Complain(absl::StrCat("no metrics: ", rest.status().ToString()));
      return {};
    }
    Complain(absl::StrFormat("5 s after the last stream: %g running, %g waiting, cache usage %g, %g at the start",
                             rest->running, rest->waiting, rest->cache_usage, cache_usage));
    return *rest;
  }

  void CheckMemory(const AtRest& warm, const AtRest& rest) {
    const int64_t slack = kMemorySlackBytes + (duration_ < kLongRun ? static_cast<int64_t>(rest.cache_bytes) : 0);
    if (rest.resident_bytes > warm.resident_bytes + slack) {
      Complain(absl::StrFormat("resident memory grew from %d MB to %d MB between two moments without a request",
                               warm.resident_bytes >> 20, rest.resident_bytes >> 20));
    }
    if (server_.peak_resident_bytes() > warm.resident_bytes + slack + kPeakSlackBytes) {
      Complain(absl::StrFormat("resident memory was %d MB at its peak, %d MB at rest",
                               server_.peak_resident_bytes() >> 20, warm.resident_bytes >> 20));
    }
  }

  static absl::StatusOr<int64_t> DeviceMegabytes() {
    const std::string command = absl::GetFlag(FLAGS_device_memory_command);
    if (command.empty()) return 0;
    return ReadMegabytes(command);
  }

  // Its line for people.
  std::string CheckDeviceMemory(const absl::StatusOr<int64_t>& warm, const absl::StatusOr<int64_t>& rest) {
    if (absl::GetFlag(FLAGS_device_memory_command).empty()) return "";
    const std::string wrong = WrongInDeviceMemory(warm, rest, absl::GetFlag(FLAGS_device_memory_growth_mb));
    if (!wrong.empty()) Complain(wrong);
    if (!warm.ok() || !rest.ok()) return "";
    return absl::StrFormat("device memory: %d MB after the first part, %d MB at the end\n", *warm, *rest);
  }

  void Judge(const Population& population) {
    constexpr size_t kMostShown = 20;
    for (auto wrongs :
         {CheckEnds(population.ends(), server_.RequestLog()), CheckStopCounts(CountStops(population.ends())),
          CheckGaps(population.ends(), stall_watch_.stalls(), absl::GetFlag(FLAGS_longest_gap_seconds))}) {
      const size_t num_wrongs = wrongs.size();
      if (num_wrongs > kMostShown) {
        wrongs.resize(kMostShown);
        wrongs.push_back(absl::StrCat("... and ", num_wrongs - kMostShown, " more like these"));
      }
      for (std::string& wrong : wrongs) Complain(std::move(wrong));
    }
    if (population.num_severed() == 0) Complain("no connection was cut: the soak did not do what it should");
  }

  const absl::Duration duration_;
  ServerProcess server_;
  StallWatch stall_watch_{&server_};
  std::vector<std::string> wrongs_;
};

}  // namespace
}  // namespace spotlight::soak

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Soaks a server on the tiny model in streams that misbehave, and says what did not hold.");
  absl::ParseCommandLine(argc, argv);
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  const char* test_folder = getenv("TEST_TMPDIR");
  std::string folder = test_folder != nullptr ? test_folder : "/tmp/spotlight-soak-XXXXXX";
  if (test_folder == nullptr && mkdtemp(folder.data()) == nullptr) return 1;
  const int exit_code = spotlight::soak::Soak(folder, absl::Seconds(absl::GetFlag(FLAGS_seconds))).Run();
  if (test_folder == nullptr && exit_code == 0) std::filesystem::remove_all(folder);
  return exit_code;
}
