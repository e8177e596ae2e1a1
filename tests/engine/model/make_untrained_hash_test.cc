#include <stdio.h>
#include <sys/wait.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/config.h"
#include "engine/model/fingerprint.h"
#include "engine/model/hash_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/model_configs.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

using testing::HasSubstr;

struct Result {
  int exit_code = 0;
  std::string output;  // stdout and stderr
};

Result RunTool(const std::string& arguments) {
  Result result;
  FILE* pipe = popen(absl::StrCat("engine/model/make_untrained_hash ", arguments, " 2>&1").c_str(), "r");
  for (int c; (c = fgetc(pipe)) != EOF;) result.output += static_cast<char>(c);
  result.exit_code = WEXITSTATUS(pclose(pipe));
  return result;
}

TEST(MakeUntrainedHashTest, WritesAFileForTheModelAndSaysThatItsQualityIsMeaningless) {
  TempFolder folder;
  folder.Write("config.json", kTinyConfig);
  const std::string path = folder.File("hash.safetensors");
  const Result result = RunTool(absl::StrCat("--model ", folder.path(), " --out ", path,
                                             " --random-weights 7 --bits 64 --first-layer 3 --seed 1"));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("the quality of what it retrieves is meaningless"));

  const absl::StatusOr<ModelConfig> config = LoadModelConfig(folder.path());
  ASSERT_TRUE(config.ok()) << config.status();
  const auto hash = LoadHashFile(path, *config, *RandomWeightsFingerprint(*config, 7), /*allow_untrained=*/true);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_EQ(hash->hash_words, 2);
  EXPECT_EQ(hash->layers.size(), 1u);
}

TEST(MakeUntrainedHashTest, RefusesBadFlagsAndModels) {
  TempFolder folder;
  folder.Write("config.json", kTinyConfig);
  const std::string model = absl::StrCat("--model ", folder.path(), " --out ", folder.File("x"));
  EXPECT_EQ(RunTool("").exit_code, 2);
  EXPECT_EQ(RunTool(model + " --bits 100").output, "make_untrained_hash: --bits: 100 is not a value that it takes\n");
  EXPECT_EQ(RunTool(model + " --bits 96").output, "make_untrained_hash: --bits: 96 is not a value that it takes\n");
  EXPECT_EQ(RunTool(model + " --bits 512").exit_code, 2);
  EXPECT_EQ(RunTool(model + " --seed -1").exit_code, 2);
  EXPECT_EQ(RunTool(model).output, absl::StrCat("make_untrained_hash: ", folder.path(),
                                                ": has neither model.safetensors nor model.safetensors.index.json\n"));
  const Result result = RunTool(model + " --random-weights 1 --first-layer 4");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.output, "make_untrained_hash: first_layer: must be in [0, 3], is 4\n");
}

}  // namespace
}  // namespace spotlight::engine
