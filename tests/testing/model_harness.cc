#include "tests/testing/model_harness.h"

#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

#include "engine/kv_cache.h"
#include "engine/model/fingerprint.h"
#include "engine/model/layer_hash.h"
#include "kernels/layout.h"
#include "tests/testing/step_tensors.h"

namespace spotlight::testing {
namespace {

// Pages in an order that is not the natural one, so that a page table is needed.
int32_t PageOf(int32_t index, int32_t num_pages) {
  return num_pages - 1 - index;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelHarness>> ModelHarness::Create(const std::string& folder,
                                                                   const HarnessOptions& options) {
  const c10::InferenceMode no_autograd;
  at::set_num_threads(1);  // tests share the machine: threads that wait for each other would wait for it, too
  auto harness = std::make_unique<ModelHarness>();
  harness->options_ = options;
  auto config = engine::LoadModelConfig(folder);
  if (!config.ok()) return config.status();
  harness->config_ = *std::move(config);
  const engine::ModelConfig& c = harness->config_;
  auto checkpoint = engine::Checkpoint::Open(folder);
  if (!checkpoint.ok()) return checkpoint.status();
  harness->checkpoint_ = *std::move(checkpoint);
  harness->source_ = engine::CheckpointTensors(harness->checkpoint_.get());
  auto k_proj = harness->checkpoint_->Find("model.layers.2.self_attn.k_proj.weight",
                                           {int64_t{c.num_kv_heads} * c.head_dim, c.hidden_size});
  if (!k_proj.ok()) return k_proj.status();
  harness->fingerprint_ = engine::ModelFingerprint(*k_proj, c);
  auto decoder = engine::Decoder::Load(c, harness->source_.get(), options.dtype, options.device, options.quantization);
  if (!decoder.ok()) return decoder.status();
  harness->decoder_ = *std::move(decoder);

  engine::KvCacheShape shape{c.num_layers, c.num_kv_heads, c.head_dim, 0, {}};
  shape.e4m3 = options.e4m3_cache;
  if (!options.hash_path.empty()) {
    auto file = engine::LoadHashFile(options.hash_path, c, harness->fingerprint_, /*allow_untrained=*/true);
    if (!file.ok()) return file.status();
    harness->hash_file_ = *std::move(file);
    auto hashes = engine::LoadLayerHashes(harness->hash_file_, options.device);
    if (!hashes.ok()) return hashes.status();
    harness->hashes_ = *std::move(hashes);
    shape.hash_words = harness->hash_file_.hash_words;
    for (const auto& [layer, hash] : harness->hashes_) shape.hashed_layers.push_back(layer);
  }
  auto cache =
      engine::KvCache::Create(shape, options.max_context / kernels::kPageTokens, options.dtype, options.device);
  if (!cache.ok()) return cache.status();
  harness->cache_ = std::make_unique<engine::KvCache>(*std::move(cache));
  engine::AttentionOptions attention_options;
  attention_options.max_chunk_tokens = options.chunk_tokens;
  attention_options.max_context = options.max_context;
  auto attention =
      engine::SpotlightAttention::Create({c.num_q_heads, c.num_kv_heads, c.head_dim}, attention_options, c.inv_freq,
                                         c.rope_scale, harness->cache_.get(), options.dtype, options.device);
  if (!attention.ok()) return attention.status();
  harness->attention_ = std::make_unique<engine::SpotlightAttention>(*std::move(attention));
  return harness;
}

absl::StatusOr<std::vector<float>> ModelHarness::Prefill(const std::vector<int32_t>& token_ids) {
  length_ = 0;
  absl::StatusOr<std::vector<float>> logits = std::vector<float>();
  for (size_t begin = 0; begin < token_ids.size(); begin += options_.chunk_tokens) {
    const size_t end = std::min(token_ids.size(), begin + options_.chunk_tokens);
    logits = Step({token_ids.begin() + begin, token_ids.begin() + end}, /*decode=*/false, 0);
    if (!logits.ok()) break;
  }
  return logits;
}

absl::StatusOr<std::vector<float>> ModelHarness::Decode(int32_t token_id, int32_t num_select) {
  return Step({token_id}, /*decode=*/true, num_select);
}

absl::StatusOr<std::vector<int32_t>> ModelHarness::Greedy(const std::vector<int32_t>& prompt, int32_t count) {
  std::vector<int32_t> output;
  auto logits = Prefill(prompt);
  while (logits.ok()) {
    output.push_back(ArgMax(*logits));
    if (static_cast<int32_t>(output.size()) == count) return output;
    logits = Decode(output.back());
  }
  return logits.status();
}

absl::StatusOr<std::vector<float>> ModelHarness::Step(const std::vector<int32_t>& token_ids, bool decode,
                                                      int32_t num_select) {
  const c10::InferenceMode no_autograd;
  const auto count = static_cast<int32_t>(token_ids.size());
  const int32_t num_pages = options_.max_context / kernels::kPageTokens;
  engine::Batch batch;
  batch.num_dense_rows = decode && num_select == 0 ? 1 : 0;
  batch.num_decode_rows = decode ? 1 : 0;
  batch.num_rows = 1;
  batch.token_ids = token_ids;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t position = length_ + i;
    batch.positions.push_back(position);
    batch.slots.push_back(int64_t{PageOf(position / kernels::kPageTokens, num_pages)} * kernels::kPageTokens +
                          position % kernels::kPageTokens);
  }
  length_ += count;
  batch.query_begin = {0, count};
  batch.context_len = {length_};
  batch.num_select = {num_select};
  for (int32_t page = 0; page < num_pages; ++page) batch.page_table.push_back(PageOf(page, num_pages));
  batch.max_pages = num_pages;

  const at::Tensor last = at::tensor(std::vector<int64_t>{count - 1}, at::kLong).to(options_.device);
  auto logits = decoder_->Forward(StepTensorsOf(batch, options_.device), last, hashes_, attention_.get(), nullptr);
  if (!logits.ok()) return logits.status();
  const at::Tensor host = logits->to(at::kCPU).contiguous();
  return std::vector<float>(host.data_ptr<float>(), host.data_ptr<float>() + host.numel());
}

int32_t ArgMax(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

absl::Status WriteUntrainedHash(const std::string& folder, const std::string& path) {
  auto plain = ModelHarness::Create(folder, HarnessOptions());
  if (!plain.ok()) return plain.status();
  return engine::WriteUntrainedHashFile(path, (*plain)->config(), (*plain)->fingerprint(), /*first_layer=*/2,
                                        /*hash_words=*/4, /*seed=*/9);
}

}  // namespace spotlight::testing
