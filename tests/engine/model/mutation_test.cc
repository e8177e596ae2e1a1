// Valid files with random bytes flipped, cut or repeated: a loader may accept or refuse them, but must not crash, and
// what it accepts must be readable to the last byte.
#include <cstdint>
#include <random>
#include <string>

#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/hash_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/model_configs.h"
#include "tests/engine/model/test_files.h"

namespace spotlight::engine {
namespace {

class Mutator {
 public:
  // Changes fall into the first `span` bytes, where the structure is.
  std::string Mutate(std::string bytes, size_t span) {
    const int num_changes = 1 + static_cast<int>(Below(4));
    for (int i = 0; i < num_changes && !bytes.empty(); ++i) {
      const size_t at = Below(std::min(span, bytes.size()));
      switch (Below(6)) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ 1 << Below(8));
          break;
        case 1:
          bytes[at] = static_cast<char>(Below(256));
          break;
        case 2:
          bytes[at] = "0123456789-.eE{}[]\",: ntf"[Below(25)];
          break;
        case 3:
          bytes.insert(at, bytes.substr(at, Below(32)));
          break;
        case 4:
          bytes.erase(at, Below(16));
          break;
        case 5:
          if (Below(4) == 0) bytes.resize(at);
          break;
      }
    }
    return bytes;
  }

 private:
  size_t Below(size_t bound) { return random_() % bound; }
  std::mt19937_64 random_{20240607};
};

struct Outcomes {
  int accepted = 0, refused = 0;
  void Count(const absl::Status& status, const std::string& folder) {
    if (status.ok()) {
      ++accepted;
      return;
    }
    ++refused;
    EXPECT_THAT(std::string(status.message()), testing::StartsWith(folder)) << "errors name the file";
  }
};

TEST(MutationTest, ConfigsNeverCrashTheLoader) {
  TempFolder folder;
  Mutator mutator;
  Outcomes outcomes;
  for (const std::string& config :
       {std::string(kLlama31Config), std::string(kQwen25Config), std::string(kMistralConfig)}) {
    for (int i = 0; i < 1000; ++i) {
      folder.Write("config.json", mutator.Mutate(config, config.size()));
      folder.Write("generation_config.json", i % 4 == 0 ? mutator.Mutate(kQwen25GenerationConfig, 200) : "{}");
      const absl::StatusOr<ModelConfig> loaded = LoadModelConfig(folder.path());
      outcomes.Count(loaded.status(), folder.path());
      if (!loaded.ok()) continue;
      EXPECT_EQ(loaded->inv_freq.size(), loaded->head_dim / 2u);
      EXPECT_EQ(loaded->num_q_heads % loaded->num_kv_heads, 0);
      EXPECT_GE(loaded->max_context_tokens, 1);
    }
  }
  EXPECT_GT(outcomes.accepted, 100);
  EXPECT_GT(outcomes.refused, 1000);
}

TEST(MutationTest, CheckpointsNeverCrashTheLoader) {
  TempFolder folder;
  Mutator mutator;
  Outcomes outcomes;
  const std::string header = R"({"__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
    "c": {"dtype": "I64", "shape": [1], "data_offsets": [20, 28]}})";
  const std::string file = SafetensorsBytes(header, std::string(28, 'x'));
  uint64_t sum = 0;
  for (int i = 0; i < 4000; ++i) {
    folder.Write("model.safetensors", mutator.Mutate(file, file.size()));
    const auto checkpoint = Checkpoint::Open(folder.path());
    outcomes.Count(checkpoint.status(), folder.path());
    if (!checkpoint.ok()) continue;
    const auto opened = SafetensorsFile::Open(folder.File("model.safetensors"));
    ASSERT_TRUE(opened.ok());
    for (const std::string& name : (*opened)->names()) {
      const absl::StatusOr<TensorView> view = (*opened)->Find(name);
      if (!view.ok()) continue;
      for (size_t byte = 0; byte < view->num_bytes; ++byte) sum += static_cast<uint64_t>(view->data[byte]);
      (*opened)->Release(*view);
    }
  }
  EXPECT_GT(sum, 0u);
  EXPECT_GT(outcomes.accepted, 50);
  EXPECT_GT(outcomes.refused, 1000);
}

TEST(MutationTest, ShardIndexesNeverCrashTheLoader) {
  TempFolder folder;
  Mutator mutator;
  Outcomes outcomes;
  folder.Write("1.safetensors",
               SafetensorsBytes(R"({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}})", "1234"));
  const std::string index = R"({"metadata": {"total_size": 4}, "weight_map": {"a": "1.safetensors"}})";
  for (int i = 0; i < 1000; ++i) {
    folder.Write("model.safetensors.index.json", mutator.Mutate(index, index.size()));
    outcomes.Count(Checkpoint::Open(folder.path()).status(), folder.path());
  }
  EXPECT_GT(outcomes.accepted, 20);
  EXPECT_GT(outcomes.refused, 300);
}

TEST(MutationTest, HashFilesNeverCrashTheLoader) {
  TempFolder folder;
  Mutator mutator;
  Outcomes outcomes;
  folder.Write("config.json", kTinyConfig);
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(folder.path());
  ASSERT_TRUE(config.ok()) << config.status();
  const std::string fingerprint(64, 'a');
  const std::string path = folder.File("hash.safetensors");
  ASSERT_TRUE(WriteUntrainedHashFile(path, *config, fingerprint, 3, 1, 1).ok());
  const std::string file = ReadBytes(path);
  constexpr size_t kHeaderSpan = 1600;
  for (int i = 0; i < 1000; ++i) {
    folder.Write("hash.safetensors", mutator.Mutate(file, kHeaderSpan));
    outcomes.Count(LoadHashFile(path, *config, fingerprint, true).status(), folder.path());
    FindHashFile(folder.path(), {folder.path()}, fingerprint);
  }
  EXPECT_GT(outcomes.accepted, 0);
  EXPECT_GT(outcomes.refused, 300);
}

}  // namespace
}  // namespace spotlight::engine
