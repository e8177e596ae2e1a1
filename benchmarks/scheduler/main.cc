// Prints host time per step as JSON: bazel run //benchmarks/scheduler -- --tokenizer=/path/to/tokenizer.json
#include <cstdio>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "benchmarks/scheduler/step_overhead.h"

ABSL_FLAG(std::string, tokenizer, "tests/testdata/tiny-llama/tokenizer.json", "tokenizer.json to decode with");
ABSL_FLAG(int32_t, batch_size, 32, "streams decoded side by side");
ABSL_FLAG(int32_t, num_steps, 2000, "steps measured");
ABSL_FLAG(int32_t, prompt_tokens, 512, "tokens of each prompt");
ABSL_FLAG(int32_t, num_stop_strings, 2, "stop strings of each request");

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Measures what the engine adds to each step of the model.");
  absl::ParseCommandLine(argc, argv);
  const auto tokenizer = spotlight::engine::Tokenizer::Load(absl::GetFlag(FLAGS_tokenizer));
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  spotlight::benchmarks::StepOverheadOptions options;
  options.batch_size = absl::GetFlag(FLAGS_batch_size);
  options.num_steps = absl::GetFlag(FLAGS_num_steps);
  options.prompt_tokens = absl::GetFlag(FLAGS_prompt_tokens);
  options.num_stop_strings = absl::GetFlag(FLAGS_num_stop_strings);
  if (options.batch_size < 1 || options.num_steps < 1 || options.prompt_tokens < 1 || options.num_stop_strings < 0) {
    std::fprintf(stderr, "batch_size, num_steps and prompt_tokens must be at least 1, num_stop_strings 0\n");
    return 1;
  }
  const auto overhead = spotlight::benchmarks::MeasureStepOverhead(options, **tokenizer);
  if (!overhead.ok()) {
    std::fprintf(stderr, "%s\n", overhead.status().ToString().c_str());
    return 1;
  }
  std::printf(
      "{\"benchmark\": \"step_overhead\", \"batch_size\": %d, \"num_steps\": %d, \"prompt_tokens\": %d, "
      "\"target_us\": 150, \"mean_us\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
      options.batch_size, options.num_steps, options.prompt_tokens, overhead->mean_us, overhead->p50_us,
      overhead->p99_us);
  return 0;
}
