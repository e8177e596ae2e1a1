#include "training/evaluation/selectors/selector_list.h"

#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "training/evaluation/selectors/exact.h"
#include "training/evaluation/selectors/hash.h"
#include "training/evaluation/selectors/lsh.h"
#include "training/evaluation/selectors/magicpig.h"
#include "training/evaluation/selectors/quest.h"
#include "training/evaluation/selectors/selector_names.h"

namespace spotlight::training {
namespace {

constexpr int32_t kLshBits = 128;

// Null: one that reads a hash file.
std::unique_ptr<Selector> MakeWithoutFile(absl::string_view name, uint64_t seed) {
  if (name == "oracle-a") return MakeOracleA();
  if (name == "oracle-b") return MakeOracleB();
  if (name == "lsh") return MakeLsh(kLshBits, seed);
  if (name == "lsh-head") return MakeLshByHead(kLshBits, seed);
  if (name == "quest") return MakeQuest();
  if (name == "quest-group") return MakeQuestByGroup();
  if (name == "window") return MakeWindow();
  if (name == "random") return MakeRandom(seed);
  if (name == "magicpig") {
    MagicPigOptions options;
    options.seed = seed;
    return MakeMagicPig(options);
  }
  return nullptr;
}

HashScoring ScoringOf(absl::string_view name) {
  if (name == "hash-real") return HashScoring::kReal;
  if (name == "hash-prefilter") return HashScoring::kPrefilter;
  return name == "hash-adaptive" ? HashScoring::kAdaptive : HashScoring::kServed;
}

}  // namespace

absl::StatusOr<SelectorList> MakeSelectors(const SelectorListOptions& options, const engine::ModelConfig& config,
                                           const std::string& model_fingerprint, at::Device device) {
  if (absl::Status status = CheckSelectorNames(options.names); !status.ok()) return status;
  SelectorList list;
  std::map<std::string, std::shared_ptr<const EvaluatedHash>> files;  // by path
  for (const std::string& name : options.names) {
    if (auto selector = MakeWithoutFile(name, options.seed); selector != nullptr) {
      list.selectors.push_back(std::move(selector));
      list.hashes.push_back(nullptr);
      continue;
    }
    const size_t colon = name.find(':');
    const HashSelectorOptions hash_options{name, ScoringOf(absl::string_view(name).substr(0, colon)),
                                           options.prefilter_factor, options.adaptive_share};
    const std::string path = colon == std::string::npos ? options.hash_path : name.substr(colon + 1);
    if (path.empty()) return absl::InvalidArgumentError(absl::StrCat("selector ", name, ": needs a hash file"));
    std::shared_ptr<const EvaluatedHash>& hash = files[path];
    if (hash == nullptr) {
      auto loaded = LoadEvaluatedHash(path, config, model_fingerprint, device);
      if (!loaded.ok()) return loaded.status();
      hash = std::make_shared<EvaluatedHash>(*std::move(loaded));
    }
    auto selector = MakeHashSelector(hash, hash_options);
    if (!selector.ok()) return selector.status();
    list.selectors.push_back(*std::move(selector));
    list.hashes.push_back(hash);
  }
  return list;
}

}  // namespace spotlight::training
