// Selectors plain enough to be right by looking at them, and the tiny model.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/sort.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/training/evaluation/some_tokens.h"
#include "training/evaluation/selector.h"
#include "training/sequence_model.h"

namespace spotlight::training {

inline std::unique_ptr<SequenceModel> LoadTiny(const std::string& name) {
  SequenceModelOptions options;
  options.model_folder = "tests/testdata/" + name;
  options.dtype = engine::DTypeChoice::kFp32;
  options.device = "cpu";
  auto model = SequenceModel::Load(options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

class EverySelector : public Selector {
 public:
  const std::string& name() const override { return name_; }
  absl::StatusOr<Selection> Select(const QuerySet& queries) override {
    Selection selection;
    selection.mask = queries.candidates.unsqueeze(0).unsqueeze(0).expand({queries.k.size(0), 1, -1, -1});
    return selection;
  }

 private:
  const std::string name_ = "everything";
};

// The K candidates with the highest scores [Hkv, G or 1, N, T], by a full stable sort.
class RankSelector : public Selector {
 public:
  using Score = std::function<at::Tensor(const QuerySet&)>;
  RankSelector(std::string name, Score score) : name_(std::move(name)), score_(std::move(score)) {}
  const std::string& name() const override { return name_; }
  absl::StatusOr<Selection> Select(const QuerySet& queries) override {
    const at::Tensor score = score_(queries).masked_fill(queries.candidates.logical_not(), -1e30);
    const at::Tensor order = std::get<1>(at::sort(score, /*stable=*/true, /*dim=*/-1, /*descending=*/true));
    const at::Tensor rank = std::get<1>(at::sort(order, /*stable=*/true, -1, false));
    Selection selection;
    selection.mask = (rank < queries.num_select.unsqueeze(1)).logical_and(queries.candidates);
    return selection;
  }

 private:
  const std::string name_;
  const Score score_;
};

inline RankSelector OracleB() {
  return RankSelector("oracle_b", [](const QuerySet& queries) { return queries.probs.sum(1, /*keepdim=*/true); });
}

}  // namespace spotlight::training
