// A model runner on a GPU without an engine around it: steps of given rows, whatever a scheduler would make of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/model_runner.h"
#include "engine/torch_model_runner.h"

namespace spotlight::testing {

struct RunnerOptions {
  std::string folder, hash_path;  // an untrained hash
  at::ScalarType dtype = at::kFloat;
  bool cuda_graphs = true;
  bool measure_quality = false;  // hold the memory for Batch::quality
  int32_t max_rows = 12;
  int32_t max_tokens = 512;    // of a step
  int32_t max_context = 1024;  // of a sequence, a multiple of a page's tokens; the cache holds max_rows of them
};

// On cuda:0. Null when it cannot be made, which fails the test.
std::unique_ptr<engine::ModelRunner> MakeRunner(const RunnerOptions& options);

// Launches a step and waits for it; an error fails the test.
engine::StepResult RunStep(engine::ModelRunner* runner, const engine::Batch& batch);

// Sequences of given tokens, which do not depend on what is sampled, and whose pages lie side by side. Rows are sampled
// greedily, with five log-probabilities.
class Sequences {
 public:
  Sequences(int32_t num_sequences, int32_t max_context);

  // A step of one token each of `decoding`, the last `sparse` of which retrieve, and the next `chunk` tokens of
  // `prompt`, which they end or not.
  engine::Batch Step(const std::vector<int32_t>& decoding, int32_t sparse, int32_t prompt, int32_t chunk, bool ends);

  // Prefills `count` tokens of a sequence, in chunks.
  void Prefill(engine::ModelRunner* runner, int32_t sequence, int32_t count, int32_t chunk);

 private:
  void Add(int32_t sequence, int32_t count, bool samples, engine::Batch* batch);

  const int32_t max_context_, pages_;
  const engine::SamplingParams greedy_;
  std::vector<int32_t> lengths_;
};

}  // namespace spotlight::testing
