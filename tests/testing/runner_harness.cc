#include "tests/testing/runner_harness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "engine/model/layer_hash.h"
#include "kernels/layout.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/sampling.h"

namespace spotlight::testing {
namespace {

constexpr int32_t kSelect = 40;

// What a runner borrows.
struct Model {
  engine::ModelConfig config;
  std::unique_ptr<engine::Checkpoint> checkpoint;
  std::unique_ptr<engine::TensorSource> source;
  engine::HashFile hash;
};

}  // namespace

std::unique_ptr<engine::ModelRunner> MakeRunner(const RunnerOptions& options) {
  auto model = std::make_shared<Model>();
  model->config = *engine::LoadModelConfig(options.folder);
  const engine::ModelConfig& c = model->config;
  model->checkpoint = *engine::Checkpoint::Open(options.folder);
  model->source = engine::CheckpointTensors(model->checkpoint.get());
  engine::RunnerParts parts;
  parts.device = at::Device(at::kCUDA, 0);
  parts.dtype = options.dtype;
  parts.decoder =
      *engine::Decoder::Load(c, model->source.get(), options.dtype, parts.device, engine::Quantization::kNone);
  auto harness = ModelHarness::Create(options.folder, {});
  model->hash = *engine::LoadHashFile(options.hash_path, c, (*harness)->fingerprint(), /*allow_untrained=*/true);
  parts.hashes = *engine::LoadLayerHashes(model->hash, parts.device);
  engine::KvCacheShape shape{c.num_layers, c.num_kv_heads, c.head_dim, model->hash.hash_words, {}};
  for (const auto& [layer, hash] : parts.hashes) shape.hashed_layers.push_back(layer);
  const int32_t pages = options.max_context / kernels::kPageTokens;
  parts.cache = std::make_unique<engine::KvCache>(
      *engine::KvCache::Create(shape, options.max_rows * pages, options.dtype, parts.device));
  engine::AttentionOptions attention;
  attention.measure_quality = options.measure_quality;
  attention.num_graph_layers = options.measure_quality && options.cuda_graphs ? c.num_layers : 0;
  attention.max_decode_rows = options.max_rows;
  attention.max_chunk_tokens = options.max_tokens;
  attention.max_context = options.max_context;
  parts.attention = std::make_unique<engine::SpotlightAttention>(
      *engine::SpotlightAttention::Create({c.num_q_heads, c.num_kv_heads, c.head_dim}, attention, c.inv_freq,
                                          c.rope_scale, parts.cache.get(), options.dtype, parts.device));
  parts.capacity = {options.max_tokens, options.max_rows, pages};
  parts.max_context = options.max_context;
  parts.cuda_graphs = options.cuda_graphs;
  parts.short_chunks = {16, 32, 48, 64, 96, 128};
  parts.num_layers = c.num_layers;
  parts.vocab_size = c.vocab_size;
  parts.weight_storage = model;
  auto runner = engine::MakeTorchModelRunner(std::move(parts));
  EXPECT_TRUE(runner.ok()) << runner.status();
  return runner.ok() ? *std::move(runner) : nullptr;
}

engine::StepResult RunStep(engine::ModelRunner* runner, const engine::Batch& batch) {
  const absl::Status launched = runner->Launch(batch);
  EXPECT_TRUE(launched.ok()) << launched;
  auto result = runner->Wait();
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : engine::StepResult();
}

Sequences::Sequences(int32_t num_sequences, int32_t max_context)
    : max_context_(max_context),
      pages_(max_context / kernels::kPageTokens),
      greedy_(ResolvedSampling(0)),
      lengths_(num_sequences) {}

engine::Batch Sequences::Step(const std::vector<int32_t>& decoding, int32_t sparse, int32_t prompt, int32_t chunk,
                              bool ends) {
  engine::Batch batch;
  batch.num_decode_rows = static_cast<int32_t>(decoding.size());
  batch.num_dense_rows = batch.num_decode_rows - sparse;
  batch.max_pages = pages_;
  batch.query_begin = {0};
  for (const int32_t sequence : decoding) Add(sequence, 1, true, &batch);
  for (int32_t row = batch.num_dense_rows; row < batch.num_decode_rows; ++row) batch.num_select[row] = kSelect;
  if (chunk > 0) Add(prompt, chunk, ends, &batch);
  return batch;
}

void Sequences::Prefill(engine::ModelRunner* runner, int32_t sequence, int32_t count, int32_t chunk) {
  while (count > 0) {
    const int32_t next = std::min(count, chunk);
    count -= next;
    RunStep(runner, Step({}, 0, sequence, next, count == 0));
  }
}

void Sequences::Add(int32_t sequence, int32_t count, bool samples, engine::Batch* batch) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t position = lengths_[sequence]++;
    batch->token_ids.push_back(5 + (position * 37 + sequence * 11) % 400);
    batch->positions.push_back(position);
    batch->slots.push_back(int64_t{sequence} * max_context_ + position);
  }
  for (int32_t page = 0; page < pages_; ++page) batch->page_table.push_back(sequence * pages_ + page);
  batch->query_begin.push_back(batch->num_tokens());
  batch->context_len.push_back(lengths_[sequence]);
  batch->num_select.push_back(0);
  ++batch->num_rows;
  if (!samples) return;
  engine::SampleRow row;
  row.token_index = batch->num_tokens() - 1;
  row.sampling = &greedy_;
  row.sequence_id = sequence + 1;
  row.num_logprobs = 5;
  batch->samples.push_back(row);
}

}  // namespace spotlight::testing
