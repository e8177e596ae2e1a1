#include "training/hash_trainer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/std.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "training/adamw.h"
#include "training/attention_targets.h"
#include "training/centring_statistics.h"
#include "training/hash_encoders.h"
#include "training/hash_layout.h"
#include "training/hash_objective.h"
#include "training/head_batches.h"
#include "training/held_out.h"
#include "training/ranking_loss.h"
#include "training/unit_reader.h"

namespace spotlight::training {
namespace {

constexpr double kInitialScoreStd = 2.0;

// What every public function runs under: its own gradients only, its own device.
struct TorchScope {
  explicit TorchScope(at::Device device) : device_guard(device) {}
  const c10::InferenceMode no_inference{false};
  const at::NoGradGuard no_grad;
  const c10::OptionalDeviceGuard device_guard;
};

}  // namespace

class HashTrainer::Implementation {
 public:
  Implementation(const Recipe& recipe, const HashShape& shape, at::Device device)
      : recipe_(recipe),
        shape_(shape),
        device_(device),
        layout_(recipe, shape),
        rotations_(RandomRotations(recipe.seed, shape.head_dim, recipe.hash_bits).to(device)),
        parameters_(InitialParameters(recipe, layout_, rotations_.cpu()).to(device)),
        gradient_(at::zeros_like(parameters_)),
        optimiser_(parameters_) {
    if (recipe.target_context > 0) shape_.target_context = recipe.target_context;
  }

  void Prepare(const std::vector<Activations>& samples) {
    const TorchScope scope(device_);
    centring_ = MeasureCentring(recipe_, shape_, layout_, samples, device_);
    SetScale(samples.front());
  }

  StepFigures Step(const Activations& sequence, int32_t step, int32_t rank,
                   const std::function<void(std::vector<at::Tensor>&)>& all_reduce_mean) {
    const TorchScope scope(device_);
    const int64_t tokens = sequence.k.size(2);
    StepRandom random(recipe_.seed, Draw::kQueries, step, rank);
    const std::vector<int64_t> queries = random.Ascending(recipe_.queries_per_step, FirstQuery(tokens, 4), tokens);
    const UnitReader reader = Read(sequence, queries, Draw::kPositions, step, rank);
    const QuerySites sites(queries, tokens, device_);
    PairDraws pairs;
    if (recipe_.loss == Loss::kBradleyTerry) {
      StepRandom pair_random(recipe_.seed, Draw::kPairs, step, rank);
      pairs = PairDraws(queries, &pair_random, device_);
    }

    const at::Tensor loss = at::empty({layout_.num_units()}, parameters_.options());
    const int64_t head_bytes = GradientBytesPerHead(recipe_, layout_, shape_.head_dim, tokens);
    ForHeadBatches(layout_.num_kv_heads, head_bytes, device_.type(), [&](int64_t begin, int64_t count) {
      const UnitBatch units = Units(reader.ReadHeads(begin, count), begin);
      at::Tensor mass = CandidateMass(AttentionWeights(units.q, units.k, sites), sites);
      const RankingTarget target = TargetOf(recipe_.loss, std::move(mass), sites, pairs);
      at::Tensor gradient = UnitRows(gradient_, begin, count);
      UnitRows(loss, begin, count).copy_(LossAndGradient(recipe_, layout_, units, sites, target, &gradient));
    });

    if (all_reduce_mean) {
      std::vector<at::Tensor> gradients = {gradient_};
      all_reduce_mean(gradients);
    }
    StepFigures figures;
    figures.learning_rate = LearningRate(recipe_, step);
    optimiser_.Step(recipe_, figures.learning_rate, parameters_, gradient_);
    figures.loss = loss.mean().item<double>();
    return figures;
  }

  HeldOutFigures Evaluate(const Activations& sequence, int32_t sequence_index, int32_t num_queries,
                          const std::map<std::string, at::Tensor>& encoders) const {
    const TorchScope scope(device_);
    const Encoder key = Imported(encoders, "key"), query = Imported(encoders, "query");
    const int64_t tokens = sequence.k.size(2);
    StepRandom random(0, Draw::kHeldOut, sequence_index);
    const std::vector<int64_t> queries = random.Distinct(num_queries, FirstQuery(tokens, 2), tokens);
    const UnitReader reader(layout_, shape_.head_dim, sequence, queries, PhaseShift(), device_);
    const QuerySites sites(queries, tokens, device_);
    const at::Tensor figures = at::empty({3, layout_.num_kv_heads}, parameters_.options().dtype(at::kDouble));
    const int64_t head_bytes =
        FigureBytesPerHead(recipe_, layout_, shape_.head_dim, tokens, static_cast<int64_t>(queries.size()));
    ForHeadBatches(layout_.num_kv_heads, head_bytes, device_.type(), [&](int64_t begin, int64_t count) {
      const HeadBatch heads = reader.ReadHeads(begin, count);
      const at::Tensor score = encoders.empty() ? ServedScores(recipe_, layout_, Units(heads, begin))
                                                : ScoresBy(query, key, UnitReader::UnitsOf(layout_, heads),
                                                           begin * layout_.units_per_kv_head);
      const RetrievalFigures found = JudgeRetrieval(AttentionWeights(heads.q, heads.k, sites),
                                                    score.unflatten(0, {count, layout_.units_per_kv_head}), sites);
      figures[0].narrow(0, begin, count).copy_(found.recall);
      figures[1].narrow(0, begin, count).copy_(found.candidate_mass);
      figures[2].narrow(0, begin, count).copy_(found.iou);
    });
    const at::Tensor means = figures.mean(1).cpu();
    const auto* mean = means.const_data_ptr<double>();
    return {mean[0], mean[1], mean[2]};
  }

  std::map<std::string, at::Tensor> State() const {
    const TorchScope scope(device_);
    std::map<std::string, at::Tensor> state;
    for (const auto& [name, tensor] : Persistent()) state[name] = tensor.to(at::kCPU, /*non_blocking=*/false, true);
    return state;
  }

  absl::Status Restore(const std::map<std::string, at::Tensor>& state) {
    const TorchScope scope(device_);
    for (const auto& [name, tensor] : Persistent()) {
      const auto found = state.find(name);
      if (found == state.end() || !found->second.defined()) {
        return absl::InvalidArgumentError(absl::StrCat("the training state has no tensor ", name));
      }
      if (found->second.sizes() != tensor.sizes()) {
        return absl::InvalidArgumentError(absl::StrCat("the training state's ", name, " is [",
                                                       absl::StrJoin(found->second.sizes(), ", "), "]; it must be [",
                                                       absl::StrJoin(tensor.sizes(), ", "), "]"));
      }
    }
    for (const auto& [name, tensor] : Persistent()) tensor.copy_(state.at(name));
    return absl::OkStatus();
  }

  std::map<std::string, at::Tensor> Export() const {
    const TorchScope scope(device_);
    const std::map<std::string, at::Tensor> parameters = ViewsOf(layout_, parameters_);
    std::map<std::string, at::Tensor> tensors;
    // [U, ...] of all layers -> [units of a layer, ...] of each.
    const auto add = [&](const std::string& name, const at::Tensor& x) {
      const at::Tensor by_layer = x.to(at::kFloat).cpu().unflatten(0, {int64_t{shape_.num_layers}, -1});
      for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
        tensors[absl::StrCat("layers.", recipe_.first_layer + layer, ".", name)] = by_layer[layer].clone();
      }
    };
    const auto add_encoder = [&](const std::string& side, const Encoder& encoder) {
      if (encoder.w1.defined()) {
        add(side + ".w1", encoder.w1);
        add(side + ".b1", encoder.b1.squeeze(1));
        add(side + ".w2", encoder.w2);
      }
      add(side + ".b2", encoder.b2.squeeze(1));
      add(side + ".skip", encoder.skip);
    };
    add_encoder("key", FoldCentring(EncoderOf(recipe_, Side::kKey, parameters, rotations_), centring_.key_mean,
                                    centring_.key_scale));
    add_encoder("query", FoldCentring(EncoderOf(recipe_, Side::kQuery, parameters, rotations_), centring_.query_mean,
                                      centring_.query_scale));
    add("logit_scale", parameters.at("log_scale").flatten().exp());
    return tensors;
  }

 private:
  // The first position of a sequence that is asked for: its last 1 - 1 / part, and late enough to choose.
  static int64_t FirstQuery(int64_t tokens, int64_t part) {
    const int64_t first = std::max(tokens / part, FirstChoosingPosition());
    TORCH_CHECK(first < tokens, "a sequence of ", tokens, " tokens is too short; at least ",
                FirstChoosingPosition() + 1);
    return first;
  }

  UnitReader Read(const Activations& sequence, const std::vector<int64_t>& queries, Draw purpose, int32_t step,
                  int32_t rank) const {
    StepRandom random(recipe_.seed, purpose, step, rank);
    std::vector<int64_t> positions;
    if (recipe_.position_mix) positions = MixedPositions(sequence.k.size(2), shape_.target_context, &random);
    const PhaseShift shift(positions, shape_.inv_freq, parameters_.options());
    return UnitReader(layout_, shape_.head_dim, sequence, queries, shift, device_);
  }

  // What Export gave, of all units: [units of a layer, ...] by layer -> [U, ...].
  Encoder Imported(const std::map<std::string, at::Tensor>& encoders, const std::string& side) const {
    const auto all = [&](const char* tensor) {
      std::vector<at::Tensor> layers;
      for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
        const auto found = encoders.find(absl::StrCat("layers.", recipe_.first_layer + layer, ".", side, ".", tensor));
        if (found != encoders.end())
          layers.push_back(found->second.dim() == 2 ? found->second.unsqueeze(1) : found->second);
      }
      return layers.empty() ? at::Tensor() : at::cat(layers).to(device_);
    };
    return {all("w1"), all("b1"), all("w2"), all("b2"), all("skip")};
  }

  at::Tensor ScoresBy(const Encoder& query, const Encoder& key, const HeadBatch& units, int64_t first_unit) const {
    const int64_t count = units.k.size(0);
    return ServedScores(recipe_, layout_, UnitsOf(query, first_unit, count), UnitsOf(key, first_unit, count), units.q,
                        units.k);
  }

  at::Tensor UnitRows(const at::Tensor& x, int64_t first_head, int64_t num_heads) const {
    return x.narrow(0, first_head * layout_.units_per_kv_head, num_heads * layout_.units_per_kv_head);
  }

  UnitBatch Units(const HeadBatch& heads, int64_t first_head) const {
    const int64_t count = heads.k.size(0);
    HeadBatch batch = UnitReader::UnitsOf(layout_, heads);
    return {UnitRows(parameters_, first_head, count), rotations_,
            centring_.Of(first_head * layout_.units_per_kv_head, count * layout_.units_per_kv_head), std::move(batch.q),
            std::move(batch.k)};
  }

  // Scores begin with one spread in every unit, so that one learning rate suits all.
  void SetScale(const Activations& sample) {
    const int64_t tokens = sample.k.size(2);
    StepRandom random(recipe_.seed, Draw::kScale, 0);
    const std::vector<int64_t> queries = random.Ascending(recipe_.queries_per_step, FirstQuery(tokens, 4), tokens);
    const UnitReader reader = Read(sample, queries, Draw::kScale, 1, 0);
    const at::Tensor log_scale = ViewsOf(layout_, parameters_).at("log_scale");
    const int64_t head_bytes = GradientBytesPerHead(recipe_, layout_, shape_.head_dim, tokens);
    ForHeadBatches(layout_.num_kv_heads, head_bytes, device_.type(), [&](int64_t begin, int64_t count) {
      const at::Tensor scores = TrainingScores(recipe_, layout_, Units(reader.ReadHeads(begin, count), begin));
      const at::Tensor deviation = at::std(scores, at::IntArrayRef({1, 2}), /*unbiased=*/true, /*keepdim=*/true);
      UnitRows(log_scale, begin, count).copy_((deviation.clamp_min_(1e-9) / kInitialScoreStd).log_().neg_());
    });
  }

  // All that a resumed run needs, by name.
  std::map<std::string, at::Tensor> Persistent() const {
    std::map<std::string, at::Tensor> tensors = {{"centring.key_mean", centring_.key_mean},
                                                 {"centring.key_scale", centring_.key_scale},
                                                 {"centring.query_mean", centring_.query_mean},
                                                 {"centring.query_scale", centring_.query_scale},
                                                 {"rotations", rotations_},
                                                 {"steps_taken", optimiser_.steps_taken}};
    const auto add = [&](const char* prefix, const at::Tensor& flat) {
      for (const auto& [name, view] : ViewsOf(layout_, flat)) tensors[absl::StrCat(prefix, ".", name)] = view;
    };
    add("parameter", parameters_);
    add("first_moment", optimiser_.first_moment);
    add("second_moment", optimiser_.second_moment);
    return tensors;
  }

  const Recipe recipe_;
  HashShape shape_;
  const at::Device device_;
  const HashLayout layout_;
  const at::Tensor rotations_;              // [D, N]
  const at::Tensor parameters_, gradient_;  // [U, P]
  AdamW optimiser_;
  Centring centring_;
};

HashTrainer::HashTrainer(std::unique_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
HashTrainer::~HashTrainer() = default;

absl::StatusOr<std::unique_ptr<HashTrainer>> HashTrainer::Create(const Recipe& recipe, const HashShape& shape,
                                                                 const std::vector<Activations>& samples,
                                                                 at::Device device) {
  if (absl::Status status = ValidateRecipe(recipe); !status.ok()) return status;
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  if (samples.empty()) return absl::InvalidArgumentError("there is no sequence to measure keys and queries on");
  auto implementation = std::make_unique<Implementation>(recipe, shape, device);
  implementation->Prepare(samples);
  return std::unique_ptr<HashTrainer>(new HashTrainer(std::move(implementation)));
}

StepFigures HashTrainer::Step(const Activations& sequence, int32_t step, int32_t rank,
                              const std::function<void(std::vector<at::Tensor>&)>& all_reduce_mean) {
  return implementation_->Step(sequence, step, rank, all_reduce_mean);
}

HeldOutFigures HashTrainer::Evaluate(const Activations& sequence, int32_t sequence_index, int32_t num_queries,
                                     const std::map<std::string, at::Tensor>& encoders) const {
  return implementation_->Evaluate(sequence, sequence_index, num_queries, encoders);
}

int64_t HashTrainer::StepBytes(const Recipe& recipe, const HashShape& shape, c10::DeviceType device) {
  const HashLayout layout(recipe, shape);
  const int64_t tokens = recipe.tokens_per_sequence;
  const int64_t head_bytes = GradientBytesPerHead(recipe, layout, shape.head_dim, tokens);
  const int64_t persistent = 4 * 4 * layout.num_units() * layout.row;  // parameters, gradient, two moments
  const int64_t queries =
      3 * 4 * int64_t{shape.num_layers} * shape.num_q_heads * recipe.queries_per_step * shape.head_dim;
  const int64_t masks = 2 * int64_t{recipe.queries_per_step} * tokens + 8 * 2 * tokens * shape.head_dim;
  return persistent + queries + masks + BytesAtOnce(layout.num_kv_heads, head_bytes, device);
}

std::map<std::string, at::Tensor> HashTrainer::State() const {
  return implementation_->State();
}

absl::Status HashTrainer::Restore(const std::map<std::string, at::Tensor>& state) {
  return implementation_->Restore(state);
}

std::map<std::string, at::Tensor> HashTrainer::Export() const {
  return implementation_->Export();
}

}  // namespace spotlight::training
