// Runs a target over its corpus, then over some thousand damaged copies of it.
// usage: TARGET_corpus_test CORPUS_FOLDER
//
// Files named valid-* must be accepted, refused-* refused; any other, found by a fuzzer, must only do no harm. What
// harms is left as the file last_input in the test's outputs; under a fuzzer it would stop it in the same way.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/fuzz/mutator.h"
#include "tests/fuzz/target.h"

namespace spotlight::fuzz {
namespace {

constexpr int kNumMutations = 3000;
constexpr unsigned kHangSeconds = 20;  // for one input, on a machine that is busy
constexpr long kMaxGrowthKib = 1 << 20;

std::string corpus_folder;

std::map<std::string, std::string> ReadCorpus() {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(corpus_folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    files[entry.path().filename().string()] = std::string(std::istreambuf_iterator<char>(file), {});
  }
  return files;
}

std::string LastInputPath() {
  for (const char* variable : {"TEST_UNDECLARED_OUTPUTS_DIR", "TEST_TMPDIR"}) {
    if (const char* const folder = std::getenv(variable)) return std::string(folder) + "/last_input";
  }
  return "last_input";
}

// As Accepts, with the input kept while it runs; SIGALRM ends a hang.
bool RunKept(const std::string& input) {
  static const auto& path = *new std::string(LastInputPath());
  std::ofstream(path, std::ios::binary) << input;
  alarm(kHangSeconds);
  const bool accepted = Accepts(input);
  alarm(0);
  std::filesystem::remove(path);
  return accepted;
}

long PeakKib() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

TEST(CorpusTest, ValidFilesAreAcceptedAndOthersRefused) {
  const auto corpus = ReadCorpus();
  ASSERT_FALSE(corpus.empty()) << corpus_folder;
  int num_valid = 0, num_refused = 0;
  for (const auto& [name, input] : corpus) {
    const bool accepted = RunKept(input);
    const bool valid = absl::StartsWith(name, "valid-");
    const bool refused = absl::StartsWith(name, "refused-");
    num_valid += valid;
    num_refused += refused;
    EXPECT_TRUE((!valid && !refused) || accepted == valid) << name;
  }
  EXPECT_GE(num_valid, 2);
  EXPECT_GE(num_refused, 2);
}

TEST(CorpusTest, DamagedFilesDoNoHarm) {
  std::vector<std::string> inputs;
  for (auto& [name, input] : ReadCorpus()) inputs.push_back(std::move(input));
  ASSERT_FALSE(inputs.empty());
  const long before_kib = PeakKib();
  Mutator mutator(20240607);
  int num_accepted = 0;
  for (int i = 0; i < kNumMutations; ++i) {
    num_accepted += RunKept(mutator.Mutate(inputs[i % inputs.size()], inputs));
  }
  EXPECT_LT(PeakKib() - before_kib, kMaxGrowthKib);
  // Damage that nothing survives, or that nobody notices, would test little.
  EXPECT_GT(num_accepted, kNumMutations / 200);
  EXPECT_LT(num_accepted, kNumMutations * 9 / 10);
}

}  // namespace
}  // namespace spotlight::fuzz

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 2) return 2;
  spotlight::fuzz::corpus_folder = argv[1];
  return RUN_ALL_TESTS();
}
