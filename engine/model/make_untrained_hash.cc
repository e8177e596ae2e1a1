// Writes a hash file with random encoders, to measure what sparse attention costs before a hash is trained.
#include <getopt.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/types/optional.h"
#include "engine/model/fingerprint.h"
#include "engine/model/hash_file.h"
#include "engine/model/hash_file_metadata.h"

namespace spotlight::engine {
namespace {

constexpr char kUsage[] =
    "Writes a hash file with random encoders, for measuring cost before a hash is trained.\n"
    "\n"
    "usage: make_untrained_hash --model DIR --out FILE [--seed N] [--bits N] [--first-layer N]\n"
    "                           [--random-weights SEED]\n"
    "  --model DIR            folder of the model that the file is for\n"
    "  --out FILE             the file to write\n"
    "  --seed N               of the random encoders (default 0)\n"
    "  --bits N               bits of a code: 32, 64, 128 or 256 (default 128)\n"
    "  --first-layer N        layers before it stay dense (default 2)\n"
    "  --random-weights SEED  for a model served with the same flag, which needs no weights\n";

struct Flags {
  std::string model, out;
  uint64_t seed = 0;
  int32_t bits = 128, first_layer = 2;
  absl::optional<uint64_t> random_weights;
};

// False after saying what is wrong.
bool ParseFlags(int argc, char** argv, Flags& flags) {
  const option options[] = {{"model", required_argument, nullptr, 'm'},
                            {"out", required_argument, nullptr, 'o'},
                            {"seed", required_argument, nullptr, 's'},
                            {"bits", required_argument, nullptr, 'b'},
                            {"first-layer", required_argument, nullptr, 'f'},
                            {"random-weights", required_argument, nullptr, 'r'},
                            {"help", no_argument, nullptr, 'h'},
                            {nullptr, 0, nullptr, 0}};
  uint64_t random_seed = 0;
  int index = 0;
  for (int flag; (flag = getopt_long(argc, argv, "", options, &index)) != -1;) {
    bool ok = true;
    switch (flag) {
      case 'm':
        flags.model = optarg;
        break;
      case 'o':
        flags.out = optarg;
        break;
      case 's':
        ok = absl::SimpleAtoi(optarg, &flags.seed);
        break;
      case 'b':
        ok = absl::SimpleAtoi(optarg, &flags.bits) && IsHashBits(flags.bits);
        break;
      case 'f':
        ok = absl::SimpleAtoi(optarg, &flags.first_layer);
        break;
      case 'r':
        ok = absl::SimpleAtoi(optarg, &random_seed);
        flags.random_weights = random_seed;
        break;
      case 'h':
        fputs(kUsage, stdout);
        std::exit(0);
      default:
        return false;
    }
    if (!ok) {
      fprintf(stderr, "make_untrained_hash: --%s: %s is not a value that it takes\n", options[index].name, optarg);
      return false;
    }
  }
  if (flags.model.empty() || flags.out.empty() || optind != argc) {
    fputs(kUsage, stderr);
    return false;
  }
  return true;
}

absl::StatusOr<std::string> FingerprintOf(const Flags& flags, const ModelConfig& config) {
  if (flags.random_weights.has_value()) return RandomWeightsFingerprint(config, *flags.random_weights);
  const absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(flags.model);
  if (!checkpoint.ok()) return checkpoint.status();
  return CheckpointFingerprint(**checkpoint, config);
}

absl::Status Run(const Flags& flags) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(flags.model);
  if (!config.ok()) return config.status();
  const absl::StatusOr<std::string> fingerprint = FingerprintOf(flags, *config);
  if (!fingerprint.ok()) return fingerprint.status();
  return WriteUntrainedHashFile(flags.out, *config, *fingerprint, flags.first_layer, flags.bits / 32, flags.seed);
}

}  // namespace
}  // namespace spotlight::engine

int main(int argc, char** argv) {
  spotlight::engine::Flags flags;
  if (!spotlight::engine::ParseFlags(argc, argv, flags)) return 2;
  if (const absl::Status status = spotlight::engine::Run(flags); !status.ok()) {
    fprintf(stderr, "make_untrained_hash: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  printf(
      "%s: random encoders, trained = false. It shows what retrieval costs; the quality of what it retrieves is "
      "meaningless. The server loads it with --allow-untrained-hash only.\n",
      flags.out.c_str());
  return 0;
}
