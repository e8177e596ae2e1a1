// The hashes of all layers while they are trained: parameters, loss, optimiser. One unit is one (layer, KV head) pair
// (with Recipe::per_query_head one (layer, query head) pair); U = units, trained side by side and independently.
//
// Method and measurements: training/README.md. Per unit, khat and qhat centred and scaled by statistics that Create
// measures (folded into the weights when they are exported):
//   key    h = silu(khat W1 + b1) W2 + b2 + khat S_k, bit_b = h_b >= 0; while training the gradient of the soft bit
//          4h / (1 + |4h|) stands for the sign's
//   query  x = the group's queries side by side [G * D]; w = silu(x V1 + c1) V2 + c2 + x S_q, quantised to J planes,
//          straight through
//   score  z_j = exp(ls) * w . bits_j; ls is set once so that scores begin with a standard deviation of 2
//   loss   logsumexp_region(z) - sum_j t_j z_j, t the group's summed softmax mass normalised on the region (the tokens
//          that compete), mean over the queries, summed over units; plus prefix_weight times the same of the first
//          prefix_bits bits, their scale larger by sqrt(bits / prefix_bits)
// QueryForm::kBits: soft bits 64h / (1 + |64h|) on both sides, the queries' summed over the group.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "training/activations.h"
#include "training/hash_shape.h"
#include "training/recipe.h"

namespace spotlight::training {

struct StepFigures {
  double loss = 0;  // mean over units
  double learning_rate = 0;
};

// Of held-out queries, mean over queries and units, budget 2% beside 4 sinks and 64 recent tokens; see
// kernels/retrieval_quality.h for the definitions.
struct HeldOutFigures {
  double recall = 0;          // recB
  double candidate_mass = 0;  // massC
  double iou = 0;             // against each query head's own exact top tokens, iouA
};

inline constexpr int32_t kHeldOutQueries = 32;

// Thread-compatible. Torch exceptions leave it: the caller catches them once. Results on a CPU do not depend on the
// number of threads; on a GPU, fp32 products follow the process' TF32 setting (off unless set; on, a step is a quarter
// faster).
class HashTrainer {
 public:
  // Parameters are drawn from recipe.seed; the centring statistics and the scores' first scale come from `samples` (a
  // few sequences, the same on every rank). Parameters live on `device` in fp32. INVALID_ARGUMENT names the recipe's
  // field at fault.
  static absl::StatusOr<std::unique_ptr<HashTrainer>> Create(const Recipe& recipe, const HashShape& shape,
                                                             const std::vector<Activations>& samples,
                                                             at::Device device);
  ~HashTrainer();

  // One optimiser step on one sequence. All that is random in it (query positions, position mix) depends on
  // (recipe.seed, step, rank) alone, so a resumed run repeats the undisturbed one. rank: of data-parallel workers,
  // whose gradients `all_reduce_mean` (may be null) averages in place before clipping.
  StepFigures Step(const Activations& sequence, int32_t step, int32_t rank = 0,
                   const std::function<void(std::vector<at::Tensor>&)>& all_reduce_mean = nullptr);

  // Quantised queries and hard bits, as served. Queries: `num_queries` positions of the sequence's second half, drawn
  // from (seed 0, sequence_index). `encoders`: what Export gave, whatever a file then made of it; empty: the
  // parameters as they are.
  HeldOutFigures Evaluate(const Activations& sequence, int32_t sequence_index, int32_t num_queries = kHeldOutQueries,
                          const std::map<std::string, at::Tensor>& encoders = {}) const;

  // Bytes beside the activations that training needs at most (parameters, optimiser state and Step's own), for stating
  // them before the start. A GPU is given larger pieces of the work at a time than a CPU.
  static int64_t StepBytes(const Recipe& recipe, const HashShape& shape, c10::DeviceType device = c10::kCUDA);

  // Parameters, optimiser state, statistics and the scale's state by name, on the CPU; Restore takes what State gave
  // (INVALID_ARGUMENT names a tensor that is missing or of another shape).
  std::map<std::string, at::Tensor> State() const;
  absl::Status Restore(const std::map<std::string, at::Tensor>& state);

  // The encoders as a hash file holds them (names and shapes of kernels/README.md's hash file; centring folded in), on
  // the CPU in fp32, for layers first_layer + l. With Recipe::per_query_head Hq encoders stand in the place of Hkv,
  // with QueryForm::kBits a query encoder reads one head (D rows): neither is served.
  std::map<std::string, at::Tensor> Export() const;

 private:
  class Implementation;
  explicit HashTrainer(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace spotlight::training
