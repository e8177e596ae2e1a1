// Selection by hash files against the kernels' specification, and kinds that are never served against loops in double.
#include "training/evaluation/selectors/hash.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/minimum.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>

#include "engine/model/hash_file.h"
#include "engine/model/safetensors_writer.h"
#include "kernels/reference/encode_and_append.h"
#include "kernels/reference/sparse_decode.h"
#include "tests/training/evaluation/selectors/random_queries.h"
#include "training/evaluation/selectors/selector_list.h"
#include "training/evaluation/selectors/selector_names.h"
#include "training/plane_quantiser.h"

namespace spotlight::training {
namespace {

constexpr char kFingerprint[] = "00000000000000000000000000000000000000000000000000000000000000ff";
constexpr int64_t kTokens = 90, kBits = 64;
constexpr double kRatio = 0.2;
constexpr int32_t kLayer = 4;
const std::vector<int64_t> kPositions = {6, 30, 55, 88, 89};

engine::ModelConfig Config() {
  engine::ModelConfig config;
  config.num_layers = 5;
  config.num_q_heads = kKvHeads * kGroup;
  config.num_kv_heads = kKvHeads;
  config.head_dim = kHeadDim;
  return config;
}

using Tensors = std::map<std::string, at::Tensor>;

Tensors RandomEncoders(int64_t units, int64_t query_width, bool hidden, uint64_t seed) {
  Tensors tensors;
  for (const auto& [side, in] : {std::make_pair("key.", int64_t{kHeadDim}), std::make_pair("query.", query_width)}) {
    const std::string prefix = "layers.4." + std::string(side);
    if (hidden) {
      tensors[prefix + "w1"] = Randn({units, in, 16}, ++seed);
      tensors[prefix + "b1"] = Randn({units, 16}, ++seed);
      tensors[prefix + "w2"] = Randn({units, 16, kBits}, ++seed);
    }
    tensors[prefix + "b2"] = Randn({units, kBits}, ++seed);
    tensors[prefix + "skip"] = Randn({units, in, kBits}, ++seed);
  }
  tensors["layers.4.logit_scale"] = at::ones({units}) * 0.1;
  return tensors;
}

std::string WriteHash(const std::string& name, const std::string& encoder, const std::string& scoring,
                      const Tensors& tensors) {
  engine::HashFileMetadata metadata;
  metadata.encoder = encoder;
  metadata.scoring = scoring;
  metadata.hash_bits = kBits;
  metadata.num_layers = 5;
  metadata.num_kv_heads = kKvHeads;
  metadata.group = kGroup;
  metadata.head_dim = kHeadDim;
  metadata.layers = {kLayer};
  metadata.model_fingerprint = kFingerprint;
  metadata.trained = true;
  std::vector<engine::SafetensorsWriter::Tensor> entries;
  for (const auto& [tensor, values] : tensors) entries.push_back({tensor, kernels::DType::kF32, values.sizes().vec()});
  const std::string path = ::testing::TempDir() + name;
  auto writer = engine::SafetensorsWriter::Create(path, entries, engine::FormatHashFileMetadata(metadata));
  EXPECT_TRUE(writer.ok()) << writer.status();
  for (const auto& [tensor, values] : tensors) EXPECT_TRUE((*writer)->Append(values.data_ptr(), values.nbytes()).ok());
  EXPECT_TRUE((*writer)->Finish().ok());
  return path;
}

std::unique_ptr<Selector> Load(const std::string& path, HashScoring scoring, int32_t prefilter_factor = 4) {
  auto hash = LoadEvaluatedHash(path, Config(), kFingerprint, at::kCPU);
  EXPECT_TRUE(hash.ok()) << hash.status();
  if (!hash.ok()) return nullptr;
  auto selector =
      MakeHashSelector(std::make_shared<EvaluatedHash>(*std::move(hash)), {"hash", scoring, prefilter_factor});
  EXPECT_TRUE(selector.ok()) << selector.status();
  return selector.ok() ? *std::move(selector) : nullptr;
}

kernels::EncoderWeights View(const Tensors& tensors, const std::string& prefix) {
  kernels::EncoderWeights weights;
  const auto data = [&](const char* name) -> const void* {
    const auto found = tensors.find(prefix + name);
    return found == tensors.end() ? nullptr : found->second.data_ptr();
  };
  weights.hidden = data("w1") == nullptr ? 0 : static_cast<int32_t>(tensors.at(prefix + "w1").size(2));
  weights.w1 = data("w1");
  weights.b1 = data("b1");
  weights.w2 = data("w2");
  weights.b2 = data("b2");
  weights.skip = data("skip");
  return weights;
}

// The tokens that sparse_decode selects for each query and KV head, through encode_and_append's pages and planes.
class KernelReference {
 public:
  KernelReference(const Tensors& tensors, const QuerySet& queries) : queries_(queries) {
    hash_.hash_words = kBits / 32;
    hash_.key = View(tensors, "layers.4.key.");
    hash_.query = View(tensors, "layers.4.query.");
    const int64_t pages = (kTokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
    kv_.resize(pages * kKvHeads * kernels::kPageTokens * 2 * kHeadDim);
    codes_.resize(pages * kKvHeads * kernels::kPageTokens * hash_.hash_words);
    prefix_.resize(pages * kKvHeads * kernels::kPageTokens);
    pages_ = {kv_.data(), codes_.data(), prefix_.data(), static_cast<int32_t>(pages)};
    for (int32_t page = 0; page < pages; ++page) table_.push_back(page);
    std::vector<int64_t> slots(kTokens);
    std::iota(slots.begin(), slots.end(), 0);
    const at::Tensor no_queries = at::zeros({kTokens, kKvHeads * kGroup, kHeadDim});
    Encode(no_queries, queries.k.transpose(0, 1).contiguous(), slots, 0);
    const auto count = static_cast<int32_t>(kPositions.size());
    planes_.resize(count * kKvHeads * hash_.num_planes * hash_.hash_words);
    q_ = queries.q.view({kKvHeads * kGroup, count, kHeadDim}).transpose(0, 1).contiguous();
    Encode(q_, at::zeros({count, kKvHeads, kHeadDim}), std::vector<int64_t>(count, -1), count);
  }

  std::vector<int32_t> Select(int32_t row, int32_t kv_head, bool prefilter) const {
    std::vector<int32_t> tables, lengths, num_select;
    for (size_t n = 0; n < kPositions.size(); ++n) {
      tables.insert(tables.end(), table_.begin(), table_.end());
      lengths.push_back(static_cast<int32_t>(kPositions[n] + 1));
      num_select.push_back(kernels::NumSelected(SmallBudget(kRatio), lengths.back()));
    }
    kernels::SparseDecodeParams params;
    params.num_rows = static_cast<int32_t>(kPositions.size());
    params.num_q_heads = kKvHeads * kGroup;
    params.num_kv_heads = kKvHeads;
    params.head_dim = kHeadDim;
    params.hash_words = hash_.hash_words;
    params.softmax_scale = 1;
    params.prefilter = prefilter;
    params.q = q_.data_ptr();
    params.planes = planes_.data();
    params.pages = pages_;
    params.page_table = tables.data();
    params.max_pages = pages_.num_pages;
    params.context_len = lengths.data();
    params.num_select = num_select.data();
    params.sink_tokens = SmallBudget(kRatio).sink_tokens;
    params.recent_tokens = SmallBudget(kRatio).recent_tokens;
    params.max_context = kTokens;
    return kernels::reference::SelectTokens(params, row, kv_head);
  }

 private:
  // Positions 0 rotate nothing: keys and queries are taken as they are.
  void Encode(const at::Tensor& q, const at::Tensor& k, const std::vector<int64_t>& slots, int32_t num_plane_tokens) {
    const auto tokens = static_cast<int32_t>(slots.size());
    const std::vector<float> inv_freq(kHeadDim / 2, 1.0f);
    const std::vector<int32_t> positions(tokens, 0);
    std::vector<float> q_out(q.numel()), units(tokens * kKvHeads);
    kernels::EncodeAndAppendParams params;
    params.num_tokens = tokens;
    params.num_plane_tokens = num_plane_tokens;
    params.num_q_heads = kKvHeads * kGroup;
    params.num_kv_heads = kKvHeads;
    params.head_dim = kHeadDim;
    params.q = q.data_ptr();
    params.k = params.v = k.data_ptr();
    params.q_stride = kKvHeads * kGroup * kHeadDim;
    params.k_stride = params.v_stride = kKvHeads * kHeadDim;
    params.inv_freq = inv_freq.data();
    params.positions = positions.data();
    params.slots = slots.data();
    params.hash = &hash_;
    params.pages = pages_;
    params.q_out = q_out.data();
    params.planes = planes_.data();
    params.plane_unit = units.data();
    kernels::reference::EncodeAndAppend(params);
  }

  const QuerySet& queries_;
  kernels::HashWeights hash_;
  std::vector<float> kv_;
  std::vector<uint32_t> codes_, prefix_, planes_;
  std::vector<int32_t> table_;
  kernels::LayerPages pages_;
  at::Tensor q_;
};

std::vector<int32_t> Indices(const at::Tensor& row) {
  std::vector<int32_t> indices;
  for (int64_t token = 0; token < row.size(0); ++token) {
    if (At(row, {token}) != 0) indices.push_back(static_cast<int32_t>(token));
  }
  return indices;
}

void ExpectSelectsAsTheKernels(const std::string& encoder, bool hidden) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 3);
  const Tensors tensors = RandomEncoders(kKvHeads, kGroup * kHeadDim, hidden, 100);
  const std::string path = WriteHash("served_" + encoder + ".safetensors", encoder, "asymmetric", tensors);
  const KernelReference reference(tensors, queries);
  for (const bool prefilter : {false, true}) {
    const auto selector =
        Load(path, prefilter ? HashScoring::kPrefilter : HashScoring::kServed, kernels::kPrefilterFactor);
    ASSERT_NE(selector, nullptr);
    const at::Tensor mask = selector->Select(queries)->mask;
    ASSERT_EQ(mask.size(1), 1);
    for (int32_t head = 0; head < kKvHeads; ++head) {
      for (size_t n = 0; n < kPositions.size(); ++n) {
        EXPECT_EQ(Indices(mask[head][0][n]), reference.Select(static_cast<int32_t>(n), head, prefilter))
            << "head " << head << ", query " << n << ", prefilter " << prefilter;
      }
    }
  }
}

TEST(HashSelectorTest, ZSelectsWhatTheKernelsSelect) {
  ExpectSelectsAsTheKernels("z", /*hidden=*/true);
}

TEST(HashSelectorTest, LinearSelectsWhatTheKernelsSelect) {
  ExpectSelectsAsTheKernels("linear", /*hidden=*/false);
}

// h_b of one unit in double.
double Output(const Tensors& tensors, const std::string& prefix, int64_t unit, int64_t bit,
              const std::vector<double>& x) {
  double h = At(tensors.at(prefix + "b2"), {unit, bit});
  for (size_t i = 0; i < x.size(); ++i) {
    h += x[i] * At(tensors.at(prefix + "skip"), {unit, static_cast<int64_t>(i), bit});
  }
  if (tensors.count(prefix + "w1") == 0) return h;
  for (int64_t m = 0; m < 16; ++m) {
    double y = At(tensors.at(prefix + "b1"), {unit, m});
    for (size_t i = 0; i < x.size(); ++i) {
      y += x[i] * At(tensors.at(prefix + "w1"), {unit, static_cast<int64_t>(i), m});
    }
    h += y / (1 + std::exp(-y)) * At(tensors.at(prefix + "w2"), {unit, m, bit});
  }
  return h;
}

std::vector<double> Row(const at::Tensor& tensor) {
  std::vector<double> row(tensor.size(0));
  for (size_t i = 0; i < row.size(); ++i) row[i] = At(tensor, {static_cast<int64_t>(i)});
  return row;
}

std::vector<double> Outputs(const Tensors& tensors, const std::string& prefix, int64_t unit,
                            const std::vector<double>& x) {
  std::vector<double> h(kBits);
  for (int64_t bit = 0; bit < kBits; ++bit) h[bit] = Output(tensors, prefix, unit, bit, x);
  return h;
}

// [units][tokens][bits] and [units][G][N][bits], `units` per KV head.
struct AllOutputs {
  std::vector<std::vector<std::vector<double>>> keys;
  std::vector<std::vector<std::vector<std::vector<double>>>> queries;  // [Hkv][G][N]
};

AllOutputs EncodeAll(const Tensors& tensors, const QuerySet& queries, bool by_query_head) {
  AllOutputs out;
  const int64_t units = by_query_head ? kKvHeads * kGroup : kKvHeads;
  out.keys.resize(units);
  out.queries.assign(kKvHeads, {});
  for (int64_t unit = 0; unit < units; ++unit) {
    const int64_t head = by_query_head ? unit / kGroup : unit;
    for (int64_t token = 0; token < kTokens; ++token) {
      out.keys[unit].push_back(Outputs(tensors, "layers.4.key.", unit, Row(queries.k[head][token])));
    }
  }
  for (int64_t head = 0; head < kKvHeads; ++head) {
    out.queries[head].resize(kGroup);
    for (int64_t g = 0; g < kGroup; ++g) {
      const int64_t unit = by_query_head ? head * kGroup + g : head;
      for (size_t n = 0; n < kPositions.size(); ++n) {
        out.queries[head][g].push_back(
            Outputs(tensors, "layers.4.query.", unit, Row(queries.q[head][g][static_cast<int64_t>(n)])));
      }
    }
  }
  return out;
}

double Matches(const std::vector<double>& a, const std::vector<double>& b) {
  double matches = 0;
  for (size_t i = 0; i < a.size(); ++i) matches += (a[i] >= 0) == (b[i] >= 0) ? 1 : 0;
  return matches;
}

TEST(HashSelectorTest, SymmetricSumsTheGroupsMatchingBits) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 5);
  const Tensors tensors = RandomEncoders(kKvHeads, kHeadDim, /*hidden=*/false, 200);
  const auto selector = Load(WriteHash("symmetric.safetensors", "linear", "symmetric", tensors), HashScoring::kServed);
  ASSERT_NE(selector, nullptr);
  const AllOutputs all = EncodeAll(tensors, queries, /*by_query_head=*/false);
  ExpectSelects(selector.get(), queries, kRatio, /*by_head=*/false,
                [&](int64_t head, int64_t, int64_t n, int64_t token) {
                  double matches = 0;
                  for (int64_t g = 0; g < kGroup; ++g)
                    matches += Matches(all.queries[head][g][n], all.keys[head][token]);
                  return matches;
                });
}

TEST(HashSelectorTest, PerQueryHeadSelectsByItsOwnCodes) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 7);
  const Tensors tensors = RandomEncoders(kKvHeads * kGroup, kHeadDim, /*hidden=*/true, 300);
  const auto selector =
      Load(WriteHash("paper.safetensors", "paper", "symmetric-per-query-head", tensors), HashScoring::kServed);
  ASSERT_NE(selector, nullptr);
  const AllOutputs all = EncodeAll(tensors, queries, /*by_query_head=*/true);
  ExpectSelects(selector.get(), queries, kRatio, /*by_head=*/true,
                [&](int64_t head, int64_t g, int64_t n, int64_t token) {
                  return Matches(all.queries[head][g][n], all.keys[head * kGroup + g][token]);
                });
}

TEST(HashSelectorTest, RealQueriesWeighBitsUnquantised) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 9);
  const Tensors tensors = RandomEncoders(kKvHeads * kGroup, kHeadDim, /*hidden=*/true, 400);
  const auto selector =
      Load(WriteHash("real.safetensors", "z", "asymmetric-per-query-head", tensors), HashScoring::kReal);
  ASSERT_NE(selector, nullptr);
  const AllOutputs all = EncodeAll(tensors, queries, /*by_query_head=*/true);
  ExpectSelects(selector.get(), queries, kRatio, /*by_head=*/true,
                [&](int64_t head, int64_t g, int64_t n, int64_t token) {
                  double score = 0;
                  for (int64_t bit = 0; bit < kBits; ++bit) {
                    const double sign = all.keys[head * kGroup + g][token][bit] >= 0 ? 1 : -1;
                    score += all.queries[head][g][n][bit] * sign;
                  }
                  return score;
                });
}

TEST(HashSelectorTest, QuantisingTakesOddStepsOfTheRms) {
  const at::Tensor w = at::tensor({0.f, 0.5f, -0.5f, 100.f, -100.f, 0.f}).view({1, 6});
  const double rms = std::sqrt((0.25 + 0.25 + 2 * 100.0 * 100.0) / 6);
  for (const int32_t planes : {1, 2, 4}) {
    const at::Tensor n = QuantiseToPlanes(w, planes, 0.335).levels;
    const double most = (1 << planes) - 1;
    for (int64_t i = 0; i < 6; ++i) {
      const double level = 2 * std::floor(At(w, {0, i}) / (0.335 * rms)) + 1;
      EXPECT_EQ(At(n, {0, i}), std::clamp(level, -most, most));
    }
  }
  EXPECT_EQ(At(QuantiseToPlanes(at::zeros({1, 4}), 4, 0.335).levels, {0, 0}), 1) << "no weights at all";
}

TEST(TokensForShareTest, TakesTheFewestThatReachTheShareWithinBounds) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 11);
  const at::Tensor logits = Randn({kKvHeads, 1, static_cast<int64_t>(kPositions.size()), kTokens}, 12) * 3;
  for (const double share : {0.1, 0.5, 0.9, 1.5}) {
    const at::Tensor least = queries.num_select, most = queries.num_select * 4;
    const at::Tensor counts = TokensForShare(logits, queries.candidates, share, least, most);
    for (int64_t head = 0; head < kKvHeads; ++head) {
      for (int64_t n = 0; n < static_cast<int64_t>(kPositions.size()); ++n) {
        std::vector<double> mass;
        for (int64_t token = 0; token < kTokens; ++token) {
          if (At(queries.candidates, {n, token}) != 0) mass.push_back(std::exp(At(logits, {head, 0, n, token})));
        }
        std::sort(mass.rbegin(), mass.rend());
        const double wanted = share * std::accumulate(mass.begin(), mass.end(), 0.0);
        double sum = 0;
        int64_t count = 0;
        while (count < static_cast<int64_t>(mass.size()) && sum < wanted) sum += mass[count++];
        const auto k = static_cast<int64_t>(At(queries.num_select, {n}));
        const int64_t bounded = std::min(std::max(count, k), 4 * k);
        EXPECT_EQ(At(counts, {head, 0, n}), std::min<int64_t>(bounded, mass.size())) << "share " << share;
      }
    }
  }
}

TEST(HashSelectorTest, AdaptiveTakesTheBestFromAnEighthToFiveBudgets) {
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 3);
  const Tensors tensors = RandomEncoders(kKvHeads, kGroup * kHeadDim, /*hidden=*/true, 100);
  auto hash = LoadEvaluatedHash(WriteHash("adaptive.safetensors", "z", "asymmetric", tensors), Config(), kFingerprint,
                                at::kCPU);
  ASSERT_TRUE(hash.ok()) << hash.status();
  const auto file = std::make_shared<EvaluatedHash>(*std::move(hash));
  const auto selected = [&](HashScoring scoring, double share, const QuerySet& set) {
    return (*MakeHashSelector(file, {"hash", scoring, 4, share}))->Select(set)->mask;
  };
  QuerySet least = queries, most = queries;
  least.num_select = (queries.num_select / 8).to(at::kLong).clamp_min(1);
  most.num_select = queries.num_select * 5;
  EXPECT_TRUE(at::equal(selected(HashScoring::kAdaptive, 0, queries), selected(HashScoring::kServed, 0, least)));
  EXPECT_TRUE(at::equal(selected(HashScoring::kAdaptive, 2, queries), selected(HashScoring::kServed, 0, most)));
  const at::Tensor between = selected(HashScoring::kAdaptive, 0.3, queries).sum(-1);
  EXPECT_TRUE((between >= at::minimum(least.num_select, queries.candidates.sum(-1))).all().item<bool>());
  EXPECT_TRUE((between < at::minimum(most.num_select, queries.candidates.sum(-1))).any().item<bool>());
}

TEST(HashSelectorTest, RefusesWhatTheFileDoesNotHave) {
  const Tensors tensors = RandomEncoders(kKvHeads, kHeadDim, /*hidden=*/false, 200);
  const std::string path = WriteHash("refused.safetensors", "linear", "symmetric", tensors);
  auto hash = LoadEvaluatedHash(path, Config(), kFingerprint, at::kCPU);
  ASSERT_TRUE(hash.ok()) << hash.status();
  const auto shared = std::make_shared<EvaluatedHash>(*std::move(hash));
  EXPECT_EQ(MakeHashSelector(shared, {"hash-real", HashScoring::kReal, 4}).status().code(),
            absl::StatusCode::kInvalidArgument);
  AttentionInput input = RandomAttention(kTokens, 1);
  input.layer = 3;
  const QuerySet queries = QueriesAt(input, kPositions, SmallBudget(kRatio));
  const auto selection = Load(path, HashScoring::kServed)->Select(queries);
  ASSERT_FALSE(selection.ok());
  EXPECT_NE(selection.status().message().find("no hash for layer 3"), absl::string_view::npos);
}

TEST(EvaluatedHashTest, NamesWhatIsWrongWithAFile) {
  const auto error = [](const std::string& path, const std::string& fingerprint) {
    const auto hash = LoadEvaluatedHash(path, Config(), fingerprint, at::kCPU);
    EXPECT_FALSE(hash.ok());
    return std::string(hash.status().message());
  };
  EXPECT_NE(error("nowhere.safetensors", kFingerprint).find("nowhere.safetensors"), std::string::npos);
  Tensors tensors = RandomEncoders(kKvHeads, kHeadDim, /*hidden=*/true, 1);
  const auto write = [&] { return WriteHash("wrong.safetensors", "paper", "symmetric", tensors); };
  EXPECT_NE(error(write(), std::string(64, 'a')).find("made for another model"), std::string::npos);
  tensors["layers.4.key.w1"][0][0][0] = std::nan("");
  EXPECT_NE(error(write(), kFingerprint).find("layers.4.key.w1 holds a number that is not finite"), std::string::npos);
  tensors["layers.4.key.w1"] = Randn({kKvHeads, kHeadDim + 1, 16}, 1);
  EXPECT_NE(error(write(), kFingerprint).find("layers.4.key.w1 has shape [2, 9, 16], must be [2, 8, -1]"),
            std::string::npos);
  tensors.erase("layers.4.key.w1");
  EXPECT_NE(error(write(), kFingerprint).find("has no tensor layers.4.key.w1"), std::string::npos);
  EXPECT_NE(error(WriteHash("scoring.safetensors", "linear", "guessed", tensors), kFingerprint).find("scoring"),
            std::string::npos);
  EXPECT_NE(error(WriteHash("served.safetensors", "z", "asymmetric", tensors), kFingerprint).find("served.safetensors"),
            std::string::npos);
}

TEST(SelectorListTest, NamesAllSelectorsWhenOneIsUnknown) {
  SelectorListOptions options;
  options.names = {"oracle-a", "orcale"};
  const auto list = MakeSelectors(options, Config(), kFingerprint, at::kCPU);
  ASSERT_FALSE(list.ok());
  EXPECT_EQ(list.status().message(),
            "selector orcale: must be one of oracle-a, oracle-b, hash, hash-real, hash-prefilter, hash-adaptive, lsh, "
            "lsh-head, quest, quest-group, magicpig, window, random; the hash ones may be followed by :PATH");
}

TEST(SelectorListTest, RefusesTwiceTheSameAndHashesWithoutAFile) {
  SelectorListOptions options;
  options.names = {"window", "window"};
  EXPECT_EQ(MakeSelectors(options, Config(), kFingerprint, at::kCPU).status().message(),
            "selector window: given twice");
  options.names = {"hash"};
  EXPECT_EQ(MakeSelectors(options, Config(), kFingerprint, at::kCPU).status().message(),
            "selector hash: needs a hash file");
}

TEST(SelectorListTest, MakesEveryNameThatItLists) {
  const Tensors tensors = RandomEncoders(kKvHeads, kGroup * kHeadDim, /*hidden=*/true, 100);
  SelectorListOptions options;
  options.hash_path = WriteHash("listed.safetensors", "z", "asymmetric", tensors);
  std::string names = SelectorNames();
  for (size_t comma = names.find(", "); comma != std::string::npos; comma = names.find(", ")) {
    options.names.push_back(names.substr(0, comma));
    names = names.substr(comma + 2);
  }
  options.names.push_back(names);
  options.names.push_back("hash:" + options.hash_path);
  const auto list = MakeSelectors(options, Config(), kFingerprint, at::kCPU);
  ASSERT_TRUE(list.ok()) << list.status();
  const QuerySet queries = RandomQueries(kTokens, kPositions, kRatio, 3);
  for (size_t i = 0; i < options.names.size(); ++i) {
    EXPECT_EQ(list->selectors[i]->name(), options.names[i]);
    EXPECT_EQ(list->hashes[i] != nullptr, options.names[i].rfind("hash", 0) == 0);
    EXPECT_TRUE(list->selectors[i]->Select(queries).ok()) << options.names[i];
  }
}

TEST(EvaluatedHashTest, Int8FilesAreReadAsTheServerReadsThem) {
  engine::ModelConfig config;
  config.num_layers = 4;
  config.num_q_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  const std::string golden = "tests/testdata/goldens/int8_hash", fingerprint(64, 'a');
  const auto stored = LoadEvaluatedHash(golden + ".safetensors", config, fingerprint, at::kCPU);
  const auto plain = LoadEvaluatedHash(golden + "_dequantised.safetensors", config, fingerprint, at::kCPU);
  ASSERT_TRUE(stored.ok()) << stored.status();
  ASSERT_TRUE(plain.ok()) << plain.status();
  const LayerEncoders &a = stored->layers.at(3), &b = plain->layers.at(3);
  for (const auto& [encoder, expected] : {std::make_pair(&a.key, &b.key), std::make_pair(&a.query, &b.query)}) {
    for (const auto tensor :
         {&HashEncoder::w1, &HashEncoder::b1, &HashEncoder::w2, &HashEncoder::b2, &HashEncoder::skip}) {
      EXPECT_TRUE(at::equal(encoder->*tensor, expected->*tensor));
    }
  }
}

}  // namespace
}  // namespace spotlight::training
