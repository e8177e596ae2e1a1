// An engine with the tiny model, in fp32 on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/load.h"
#include "engine/model/config.h"
#include "engine/model/hash_file.h"
#include "engine/model/weights.h"
#include "tests/training/evaluation/some_tokens.h"

namespace spotlight::training {

// hash: an untrained one, from layer 1 on.
inline std::unique_ptr<engine::Engine> LoadTinyEngine(bool hash) {
  engine::LoadOptions options;
  options.model_folder = "tests/testdata/tiny-llama";
  options.dtype = engine::DTypeChoice::kFp32;
  options.device = "cpu";
  options.max_tokens_in_cache = 4096;
  options.hash = "none";
  if (hash) {
    options.hash = ::testing::TempDir() + "/hash.safetensors";
    options.allow_untrained_hash = true;
    auto config = engine::LoadModelConfig(options.model_folder);
    EXPECT_TRUE(config.ok()) << config.status();
    auto weights = engine::OpenModelWeights(options.model_folder, *config, absl::nullopt);
    EXPECT_TRUE(weights.ok()) << weights.status();
    const absl::Status written =
        engine::WriteUntrainedHashFile(options.hash, *config, (*weights)->fingerprint, /*first_layer=*/1,
                                       /*hash_words=*/4, /*seed=*/3);
    EXPECT_TRUE(written.ok()) << written;
  }
  auto loaded = engine::LoadEngine(options, nullptr);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? std::move(loaded->engine) : nullptr;
}

}  // namespace spotlight::training
