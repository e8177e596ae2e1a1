// Times of the kernels, one layer and one step each, as tables and JSON: bazel run //benchmarks/kernels -- --help
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "benchmarks/kernels/cpu_scoring.h"
#include "benchmarks/kernels/device_benchmark.h"
#include "benchmarks/kernels/failure.h"
#include "benchmarks/kernels/machine.h"

ABSL_FLAG(
    std::vector<std::string>, ops, {},
    "on a GPU, of encode, sparse, attention, dense, skeleton, prefill, shapes, clustered; on the CPU cpu_score; empty: "
    "all");
ABSL_FLAG(int32_t, cpu_threads, 0, "the most threads of cpu_score; 0: the machine's");
ABSL_FLAG(std::vector<std::string>, contexts,
          std::vector<std::string>({"8192", "32768", "131072", "524288", "1048576", "2097152"}),
          "tokens of the one sequence at batch 1");
ABSL_FLAG(std::vector<std::string>, batches, std::vector<std::string>({"8x32768", "8x131072", "32x8192", "32x32768"}),
          "sequences x tokens");
ABSL_FLAG(int32_t, samples, 40, "of each time; the median counts");
ABSL_FLAG(bool, quick, false, "few samples, short contexts: does it run, not how fast it is");
ABSL_FLAG(bool, encode_codes, true, "codes are the hashes of the keys; false: random bits, quicker to make");
ABSL_FLAG(bool, verify, true, "check what is timed against the reference");
ABSL_FLAG(std::string, json, "", "file to write the figures to");
ABSL_FLAG(std::string, commit, "unknown", "this checkout's commit, for the JSON");
ABSL_FLAG(std::string, peer, "", "a checkout of github.com/wenhaoli-xmu/spotlight, to be timed in the same run");
ABSL_FLAG(std::string, python, "python3", "a Python with PyTorch, for --peer");

namespace spotlight::benchmarks {
namespace {

constexpr char kCpuScoring[] = "cpu_score";

int32_t ParseNumber(const std::string& text) {
  int32_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number <= 0) Fail("not a positive number: " + text);
  return number;
}

DeviceOptions ReadFlags() {
  DeviceOptions options;
  options.ops = absl::GetFlag(FLAGS_ops);
  options.contexts.clear();
  options.batches.clear();
  for (const std::string& context : absl::GetFlag(FLAGS_contexts)) options.contexts.push_back(ParseNumber(context));
  for (const std::string& batch : absl::GetFlag(FLAGS_batches)) {
    const std::vector<std::string> parts = absl::StrSplit(batch, 'x');
    if (parts.size() != 2) Fail("not sequences x tokens: " + batch);
    options.batches.emplace_back(ParseNumber(parts[0]), ParseNumber(parts[1]));
  }
  options.num_samples = absl::GetFlag(FLAGS_samples);
  options.encode_codes = absl::GetFlag(FLAGS_encode_codes);
  options.verify = absl::GetFlag(FLAGS_verify);
  options.peer = absl::GetFlag(FLAGS_peer);
  options.python = absl::GetFlag(FLAGS_python);
  options.commit = absl::GetFlag(FLAGS_commit);
  if (absl::GetFlag(FLAGS_quick)) {
    options.contexts = {8192};
    options.batches = {{3, 8192}};
    options.num_samples = 3;
    options.quick = true;
  }
  return options;
}

// Both parts, as far as --ops asks for them.
Report RunAll() {
  DeviceOptions options = ReadFlags();
  const auto cpu_op = std::find(options.ops.begin(), options.ops.end(), kCpuScoring);
  const bool on_cpu = options.ops.empty() || cpu_op != options.ops.end();
  bool on_device = options.ops.empty() || options.ops.size() > 1 || !on_cpu;
  if (cpu_op != options.ops.end()) options.ops.erase(cpu_op);
  if (options.ops.empty() && on_device && !HasDevice()) {
    std::printf("No CUDA device: the CPU's part only.\n\n");
    on_device = false;
  }
  std::vector<CpuScoringRow> cpu_scoring;
  if (on_cpu) {
    CpuScoringOptions cpu_options;
    cpu_options.num_samples = options.num_samples;
    cpu_options.num_threads = absl::GetFlag(FLAGS_cpu_threads);
    cpu_options.quick = absl::GetFlag(FLAGS_quick);
    cpu_scoring = MeasureCpuScoring(cpu_options);
  }
  Report report;
  report.commit = options.commit;
  report.num_samples = options.num_samples;
  if (on_device) report = RunOnDevice(options);
  report.cpu_scoring = cpu_scoring;
  return report;
}

}  // namespace
}  // namespace spotlight::benchmarks

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Times the kernels, beside the bytes they must read and beside cuDNN's full attention.");
  absl::ParseCommandLine(argc, argv);
  const spotlight::benchmarks::Report report = spotlight::benchmarks::RunAll();
  const std::string path = absl::GetFlag(FLAGS_json);
  if (path.empty()) return 0;
  std::ofstream file(path);
  file << ToJson(report) << std::flush;
  if (!file) spotlight::benchmarks::Fail("cannot write " + path);
  return 0;
}
