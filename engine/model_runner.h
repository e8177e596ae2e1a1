// Runs steps of the model over batches: the engine's only way to the device. Tests use
// tests/testing/fake_model_runner.h.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/batch.h"
#include "engine/response_sink.h"

namespace spotlight::engine {

// Seconds, summed over the hashed layers of one step. A layer's total is from the start of encoding to the last output;
// on a GPU by the device's clock, in which the stages follow one another and add up to it.
struct RetrievalSeconds {
  double encode = 0, score = 0, select = 0, attend = 0, total = 0;
};

// What kernels/retrieval_quality.h measures for one row in one layer, each the mean over the layer's KV heads.
struct RetrievalQuality {
  float recall = 0;          // share of the best possible selection that was selected
  float iou = 0;             // of the two selections
  float attention_mass = 0;  // share of all softmax weight that the row attended to: sinks, selected and recent tokens
  float output_error = 0;    // relative, against exact attention
};

// What was measured, and of whom.
struct QualityReading {
  QualityTarget target;
  RetrievalQuality measured;
};

// In place of a token: the row's logits hold NaN or no finite value. The engine ends that request, and no other,
// INTERNAL.
inline constexpr int32_t kNoToken = -1;

struct SampledToken {
  int32_t token_id = 0;  // or kNoToken
  TokenLogprob logprob;  // filled when SampleRow::num_logprobs >= 0
};

struct StepResult {
  std::vector<SampledToken> tokens;            // one per Batch::samples, in that order
  std::vector<TokenLogprob> scored;            // one per Batch::scored; token_id kNoToken as above
  absl::optional<RetrievalSeconds> retrieval;  // when Batch::time_retrieval and a row was sparse
  // Of this step, or, where steps overlap, of the one before, whose measurement ran beside this one.
  absl::optional<QualityReading> quality;
  bool cuda_graph = false;    // replayed from a captured graph
  bool awaits_graph = false;  // it was not, and later steps of its kind may be: theirs take another time
  // A step before which a graph was to be captured for its kind: whether it could be, or why not.
  absl::optional<absl::Status> graph_capture;
};

// Steps run in the order of their launches. Engine thread only. An error is a device fault: the engine stops, and
// nothing more is asked of the runner. Bad requests never get here.
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  // Steps that may be launched and not yet waited for: 1, or 2 where the host can plan a step, and hand out the tokens
  // of the one before, while the device is at work.
  virtual int32_t max_in_flight() const = 0;
  // Whether a launch of `batch` first prepares something for such batches, which takes many steps' time: whoever has
  // results of a step under way to hand out does so before.
  virtual bool PreparesFor(const Batch& batch) const = 0;
  // Starts a step. `batch` stays as it is until its Wait; what its samples point to, until Launch returns, and with one
  // step in flight until its Wait.
  virtual absl::Status Launch(const Batch& batch) = 0;
  // The result of the earliest step that was launched and not yet waited for.
  virtual absl::StatusOr<StepResult> Wait() = 0;
};

}  // namespace spotlight::engine
