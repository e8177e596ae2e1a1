#include "training/train_flags.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "command_line/flag_parser.h"

// Defaults come from the structs that the flags fill.
namespace {
const spotlight::training::Recipe kRecipe;
const spotlight::training::TrainOptions kOptions;
}  // namespace

ABSL_FLAG(std::string, model, "", "Checkpoint folder: config.json, tokenizer.json, *.safetensors. Required");
ABSL_FLAG(
    std::string, text, "",
    "What to train on: UTF-8 text files, and folders, whose files are read in the order of their names. Required");
ABSL_FLAG(std::string, out, "",
          "The hash file to write; it appears, or is replaced, when training has ended. Required");

ABSL_FLAG(int32_t, steps, 0, "Optimiser steps, a sequence per device in each; 0: 6000 on a GPU, 2400 on a CPU");
ABSL_FLAG(
    int32_t, tokens_per_sequence, 0,
    "Tokens that the model sees at once; much shorter ones than will be served do. 0: 4096 on a GPU, 1024 on a CPU");
ABSL_FLAG(int32_t, sequences, kOptions.max_sequences,
          "Sequences of the text to train on, evenly spread; 0: as many as the steps use, on a CPU up to 256");
ABSL_FLAG(int32_t, queries_per_step, kRecipe.queries_per_step, "Query positions drawn from a sequence");
ABSL_FLAG(int32_t, target_context, kRecipe.target_context,
          "Tokens that the hash must serve, by rotation of shorter sequences; 0: the model's context");
ABSL_FLAG(bool, position_mix, kRecipe.position_mix, "Rotate sequences to positions up to the target context");
ABSL_FLAG(double, learning_rate, kRecipe.learning_rate, "AdamW's, at its peak");
ABSL_FLAG(uint64_t, seed, kRecipe.seed, "Of everything drawn at random; on a CPU equal seeds give equal files");

ABSL_FLAG(int32_t, bits, kRecipe.hash_bits, "Of a cached token's code, per KV head");
ABSL_FLAG(int32_t, planes, kRecipe.num_planes, "Bit planes that a query's weights are quantised to, 1 to 4");
ABSL_FLAG(int32_t, prefix_bits, kRecipe.prefix_bits,
          "First bits that also rank by themselves, for the prefilter; 0: none");
ABSL_FLAG(double, prefix_weight, kRecipe.prefix_weight, "Of the prefix's loss beside the whole code's");
ABSL_FLAG(int32_t, first_layer, kRecipe.first_layer, "First layer that gets a hash; those before it stay dense");
ABSL_FLAG(int32_t, key_hidden, kRecipe.key_hidden, "Hidden units of a key's encoder");
ABSL_FLAG(int32_t, query_hidden, kRecipe.query_hidden, "Hidden units of a query's encoder");

ABSL_FLAG(std::string, weights, "int8",
          "How the file stores matrices: int8, with a scale per output, or bf16, twice the size; served alike");

ABSL_FLAG(
    std::string, loss, "ce",
    "ce: cross-entropy against the attention mass; bt: the paper's Bradley-Terry; soft-topk: against the exact top");
ABSL_FLAG(std::string, encoder, "z",
          "z: an MLP beside a linear map; linear: the map alone; paper: the paper's MLP, which cannot be served");
ABSL_FLAG(std::string, query, "real", "real: a query's real weights; bits: its own code, which cannot be served");
ABSL_FLAG(bool, per_query_head, kRecipe.per_query_head, "A code per query head, as in the paper; cannot be served");

ABSL_FLAG(std::string, device, "auto", "auto: cuda:0, cpu on a machine without GPUs; cuda: every GPU, data-parallel");
ABSL_FLAG(std::string, dtype, "auto", "Of the model's pass; auto: bf16 where the device computes it fast, else fp32");
ABSL_FLAG(int32_t, threads, 0, "CPU threads; 0: one per core");
ABSL_FLAG(double, max_memory, 0, "GB of the device's memory to use at most; 0: most of what is free");
ABSL_FLAG(double, checkpoint_seconds, kOptions.checkpoint_seconds,
          "Keep progress in FILE.training this often and resume from it; 0: never");
ABSL_FLAG(std::string, random_weights, "",
          "Draw the weights, and tokens instead of --text, from this seed: for measuring cost; empty: read them");

namespace spotlight::training {
namespace {

using command_line::FlagAction;
using command_line::FlagGroup;

const std::vector<FlagGroup>& Groups() {
  static const auto* const groups = new std::vector<FlagGroup>{
      {"What to train", {{"model", "DIR"}, {"text", "PATH ..."}, {"out", "FILE"}}},
      {"How long",
       {{"steps", "N"},
        {"tokens_per_sequence", "N"},
        {"sequences", "N"},
        {"queries_per_step", "N"},
        {"target_context", "N"},
        {"position_mix", ""},
        {"learning_rate", "RATE"},
        {"seed", "N"}}},
      {"The hash",
       {{"bits", "32|64|128|256"},
        {"planes", "N"},
        {"prefix_bits", "0|32"},
        {"prefix_weight", "X"},
        {"first_layer", "N"},
        {"key_hidden", "N"},
        {"query_hidden", "N"},
        {"weights", "int8|bf16"}}},
      {"Baselines and experiments",
       {{"loss", "ce|bt|soft-topk"},
        {"encoder", "z|linear|paper"},
        {"query", "real|bits"},
        {"per_query_head", ""},
        {"random_weights", "SEED"}}},
      {"The machine",
       {{"device", "auto|cpu|cuda|cuda:N"},
        {"dtype", "auto|bf16|fp32"},
        {"threads", "N"},
        {"max_memory", "GB"},
        {"checkpoint_seconds", "S"}}},
  };
  return *groups;
}

absl::Status Invalid(absl::string_view flag, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", what));
}

absl::Status CheckBetween(absl::string_view flag, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return Invalid(flag, absl::StrCat("must be in [", min, ", ", max, "], got ", value));
}

template <typename T>
absl::Status Choose(absl::string_view flag, const std::string& value,
                    const std::vector<std::pair<const char*, T>>& choices, T* chosen) {
  std::vector<std::string> names;
  for (const auto& [name, choice] : choices) {
    if (value == name) {
      *chosen = choice;
      return absl::OkStatus();
    }
    names.push_back(name);
  }
  return Invalid(flag, absl::StrCat("must be one of ", absl::StrJoin(names, ", "), ", got \"", value, "\""));
}

constexpr int32_t kMaxCount = 1 << 30;

absl::Status ReadFiles(TrainOptions* options) {
  options->model_folder = absl::GetFlag(FLAGS_model);
  if (options->model_folder.empty()) return Invalid("model", "names the checkpoint folder and must be given");
  if (const std::string seed = absl::GetFlag(FLAGS_random_weights); !seed.empty()) {
    uint64_t value = 0;
    if (!absl::SimpleAtoi(seed, &value)) return Invalid("random-weights", absl::StrCat("not a seed: \"", seed, "\""));
    options->random_weights_seed = value;
  }
  options->text_paths = absl::StrSplit(absl::GetFlag(FLAGS_text), '\n', absl::SkipEmpty());
  if (options->text_paths.empty() && !options->random_weights_seed.has_value()) {
    return Invalid("text", "names the files or folders to train on and must be given");
  }
  options->out = absl::GetFlag(FLAGS_out);
  if (options->out.empty()) return Invalid("out", "names the hash file to write and must be given");
  return absl::OkStatus();
}

absl::Status ReadLength(TrainOptions* options) {
  Recipe& recipe = options->recipe;
  recipe.steps = absl::GetFlag(FLAGS_steps);
  recipe.tokens_per_sequence = absl::GetFlag(FLAGS_tokens_per_sequence);
  options->max_sequences = absl::GetFlag(FLAGS_sequences);
  recipe.queries_per_step = absl::GetFlag(FLAGS_queries_per_step);
  recipe.target_context = absl::GetFlag(FLAGS_target_context);
  recipe.position_mix = absl::GetFlag(FLAGS_position_mix);
  recipe.learning_rate = absl::GetFlag(FLAGS_learning_rate);
  recipe.seed = absl::GetFlag(FLAGS_seed);
  if (!(recipe.learning_rate > 0) || std::isinf(recipe.learning_rate)) {
    return Invalid("learning-rate", absl::StrCat("must be a positive number, got ", recipe.learning_rate));
  }
  absl::Status status = CheckBetween("steps", recipe.steps, 0, kMaxCount);
  status.Update(CheckBetween("tokens-per-sequence", recipe.tokens_per_sequence, 0, kMaxCount));
  status.Update(CheckBetween("sequences", options->max_sequences, 0, kMaxCount));
  status.Update(CheckBetween("queries-per-step", recipe.queries_per_step, 1, kMaxCount));
  status.Update(CheckBetween("target-context", recipe.target_context, 0, kMaxCount));
  return status;
}

absl::Status ReadHash(Recipe* recipe) {
  recipe->hash_bits = absl::GetFlag(FLAGS_bits);
  recipe->num_planes = absl::GetFlag(FLAGS_planes);
  recipe->prefix_bits = absl::GetFlag(FLAGS_prefix_bits);
  recipe->prefix_weight = static_cast<float>(absl::GetFlag(FLAGS_prefix_weight));
  recipe->first_layer = absl::GetFlag(FLAGS_first_layer);
  recipe->key_hidden = absl::GetFlag(FLAGS_key_hidden);
  recipe->query_hidden = absl::GetFlag(FLAGS_query_hidden);
  if (!(recipe->prefix_weight >= 0) || std::isinf(recipe->prefix_weight)) {
    return Invalid("prefix-weight", absl::StrCat("must be at least 0, got ", recipe->prefix_weight));
  }
  int32_t bits = 0, prefix_bits = 0;
  absl::Status status = Choose<int32_t>("bits", absl::StrCat(recipe->hash_bits),
                                        {{"32", 32}, {"64", 64}, {"128", 128}, {"256", 256}}, &bits);
  status.Update(CheckBetween("planes", recipe->num_planes, 1, 4));
  status.Update(
      Choose<int32_t>("prefix-bits", absl::StrCat(recipe->prefix_bits), {{"0", 0}, {"32", 32}}, &prefix_bits));
  status.Update(CheckBetween("first-layer", recipe->first_layer, 0, kMaxCount));
  for (const auto& [flag, hidden] :
       {std::make_pair("key-hidden", recipe->key_hidden), std::make_pair("query-hidden", recipe->query_hidden)}) {
    status.Update(CheckBetween(flag, hidden, 16, 4096));
    if (hidden % 16 != 0) status.Update(Invalid(flag, absl::StrCat("must be a multiple of 16, got ", hidden)));
  }
  return status;
}

absl::Status ReadExperiment(Recipe* recipe) {
  recipe->per_query_head = absl::GetFlag(FLAGS_per_query_head);
  absl::Status status = Choose<Loss>(
      "loss", absl::GetFlag(FLAGS_loss),
      {{"ce", Loss::kCrossEntropy}, {"bt", Loss::kBradleyTerry}, {"soft-topk", Loss::kSoftTopK}}, &recipe->loss);
  status.Update(Choose<EncoderKind>(
      "encoder", absl::GetFlag(FLAGS_encoder),
      {{"z", EncoderKind::kZ}, {"linear", EncoderKind::kLinear}, {"paper", EncoderKind::kPaper}}, &recipe->encoder));
  status.Update(Choose<QueryForm>("query", absl::GetFlag(FLAGS_query),
                                  {{"real", QueryForm::kReal}, {"bits", QueryForm::kBits}}, &recipe->query));
  if (status.ok() && recipe->encoder == EncoderKind::kPaper && recipe->query != QueryForm::kBits) {
    status = Invalid("query", "must be bits with --encoder paper, got \"real\"");
  }
  return status;
}

absl::Status ReadWeights(TrainOptions* options) {
  return Choose<StoredWeights>("weights", absl::GetFlag(FLAGS_weights),
                               {{"int8", StoredWeights::kInt8}, {"bf16", StoredWeights::kBf16}}, &options->weights);
}

absl::Status ReadMachine(TrainOptions* options) {
  options->device = absl::GetFlag(FLAGS_device);
  uint32_t index = 0;
  const bool is_cuda = options->device.rfind("cuda:", 0) == 0 && absl::SimpleAtoi(options->device.substr(5), &index);
  if (options->device != "auto" && options->device != "cpu" && options->device != "cuda" && !is_cuda) {
    return Invalid("device", absl::StrCat("must be auto, cpu, cuda or cuda:N, got \"", options->device, "\""));
  }
  options->num_threads = absl::GetFlag(FLAGS_threads);
  options->checkpoint_seconds = absl::GetFlag(FLAGS_checkpoint_seconds);
  if (!(options->checkpoint_seconds >= 0)) {
    return Invalid("checkpoint-seconds", absl::StrCat("must be at least 0, got ", options->checkpoint_seconds));
  }
  const double gigabytes = absl::GetFlag(FLAGS_max_memory);
  if (!(gigabytes >= 0 && gigabytes < 1e6)) return Invalid("max-memory", absl::StrCat("not GB: ", gigabytes));
  options->max_memory_bytes = static_cast<int64_t>(gigabytes * 1e9);
  absl::Status status = Choose<engine::DTypeChoice>("dtype", absl::GetFlag(FLAGS_dtype),
                                                    {{"auto", engine::DTypeChoice::kAuto},
                                                     {"bf16", engine::DTypeChoice::kBf16},
                                                     {"fp32", engine::DTypeChoice::kFp32}},
                                                    &options->dtype);
  status.Update(CheckBetween("threads", options->num_threads, 0, 4096));
  return status;
}

}  // namespace

std::string TrainHelpText() {
  return absl::StrCat(
      "spotlight-train learns from text which cached tokens a model's attention looks for, and writes a small file of "
      "hash\nweights, with which spotlight-server attends to those tokens only.\n\n"
      "Usage: spotlight-train --model DIR --text PATH ... --out FILE [flags]\n\n",
      command_line::FormatFlags(Groups()),
      "\n  --help  this text        --version  the version\n\n"
      "Exit codes: 0 done, 1 failed, 2 a bad command line, 4 stopped by a signal (the same command goes on).\n");
}

absl::StatusOr<TrainCommandLine> ParseTrainCommandLine(int argc, const char* const* argv) {
  TrainCommandLine line;
  const auto action = command_line::ParseFlags(Groups(), argc, argv);
  if (!action.ok()) return action.status();
  if (*action != FlagAction::kRun) {
    line.action = *action == FlagAction::kHelp ? TrainAction::kPrintHelp : TrainAction::kPrintVersion;
    return line;
  }
  TrainOptions& options = line.options;
  for (const absl::Status& status : {ReadFiles(&options), ReadLength(&options), ReadHash(&options.recipe),
                                     ReadWeights(&options), ReadExperiment(&options.recipe), ReadMachine(&options)}) {
    if (!status.ok()) return status;
  }
  return line;
}

}  // namespace spotlight::training
