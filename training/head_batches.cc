#include "training/head_batches.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "engine/ops/parallel.h"

namespace spotlight::training {
namespace {

// A GPU wants few large launches; a thread of the CPU tensors that its caches hold.
int64_t HeadsAtOnce(int64_t num_heads, int64_t bytes_per_head, c10::DeviceType device) {
  const int64_t bytes = device == c10::kCPU ? int64_t{16} << 20 : int64_t{4} << 30;
  return std::clamp<int64_t>(bytes / bytes_per_head, 1, num_heads);
}

// Floats of the encoders of one unit that keep what their backward pass needs.
int64_t EncoderFloats(const Recipe& recipe, const HashLayout& layout, int64_t head_dim, int64_t tokens) {
  int64_t hidden = 0;
  if (recipe.encoder == EncoderKind::kZ) hidden = recipe.key_hidden;
  if (recipe.encoder == EncoderKind::kPaper) hidden = head_dim;
  // Centred keys; the hidden layer before and after its activation; the output, the bits and their gradient.
  return tokens * (head_dim + 2 * hidden + 3 * int64_t{recipe.hash_bits}) + 2 * layout.row;
}

}  // namespace

int64_t GradientBytesPerHead(const Recipe& recipe, const HashLayout& layout, int64_t head_dim, int64_t tokens) {
  const int64_t units = layout.units_per_kv_head, queries = recipe.queries_per_step;
  const int64_t scores = units * queries * tokens, group = layout.group;
  const int64_t keys = (units == 1 ? 2 : 1 + units) * tokens * head_dim;
  // Logits and softmax of every head; later the target, the scores, their shares and gradient.
  const int64_t floats =
      std::max(2 * group * scores, 4 * scores + units * EncoderFloats(recipe, layout, head_dim, tokens));
  const int64_t sorting = recipe.loss == Loss::kCrossEntropy ? 0 : 32 * scores;
  return 4 * (floats + keys) + sorting;
}

int64_t FigureBytesPerHead(const Recipe& recipe, const HashLayout& layout, int64_t head_dim, int64_t tokens,
                           int64_t queries) {
  const int64_t units = layout.units_per_kv_head;
  const int64_t scores = units * layout.group * queries * tokens;
  return 4 * (2 * units * tokens * head_dim + units * EncoderFloats(recipe, layout, head_dim, tokens)) + 40 * scores;
}

void ForHeadBatches(int64_t num_heads, int64_t bytes_per_head, c10::DeviceType device,
                    const std::function<void(int64_t begin, int64_t count)>& work) {
  const int64_t at_once = HeadsAtOnce(num_heads, bytes_per_head, device);
  const int64_t num_batches = (num_heads + at_once - 1) / at_once;
  const auto run = [&](int64_t first, int64_t last) {
    const c10::InferenceMode no_inference(false);
    const at::NoGradGuard no_grad;
    for (int64_t begin = first * at_once; begin < std::min(last * at_once, num_heads); begin += at_once) {
      work(begin, std::min(at_once, num_heads - begin));
    }
  };
  if (device == c10::kCPU) {
    engine::ParallelFor(num_batches, 1, run);
  } else {
    run(0, num_batches);
  }
}

int64_t BytesAtOnce(int64_t num_heads, int64_t bytes_per_head, c10::DeviceType device) {
  const int64_t at_once = HeadsAtOnce(num_heads, bytes_per_head, device);
  const int64_t threads = device == c10::kCPU ? at::get_num_threads() : 1;
  return bytes_per_head * std::min(num_heads, at_once * threads);
}

}  // namespace spotlight::training
