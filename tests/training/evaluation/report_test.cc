// Means, percentiles, bars and the JSON of a report, on made-up figures.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "nlohmann/json.hpp"
#include "training/evaluation/evaluation_report.h"
#include "training/evaluation/quality_bars.h"
#include "training/evaluation/quality_rows.h"

namespace spotlight::training {
namespace {

// Every value of measure m of selector s at budget b, layer l, head h and query n is base + 100 s + 10 b + l + .1 h +
// .01 n
// + m / 1000.
MeasuredSequence Sequence(double base) {
  MeasuredSequence measured;
  measured.num_selectors = 2;
  measured.num_budgets = 2;
  measured.num_layers = 3;
  measured.num_kv_heads = 2;
  measured.num_queries = 4;
  for (int s = 0; s < 2; ++s) {
    for (int b = 0; b < 2; ++b) {
      for (int l = 0; l < 3; ++l) {
        for (int m = 0; m < kNumMeasures; ++m) {
          for (int h = 0; h < 2; ++h) {
            for (int n = 0; n < 4; ++n) {
              measured.values.push_back(
                  static_cast<float>(base + 100 * s + 10 * b + l + 0.1 * h + 0.01 * n + m / 1000.0));
            }
          }
        }
      }
    }
  }
  return measured;
}

const MeasuredAxes kAxes = {{"window", "oracle-b"}, {0.02, 0.05}, {2, 3, 5}};

TEST(QualityRowsTest, MeansGiveEverySequenceLayerHeadAndQueryEqualWeight) {
  const std::vector<SequenceResult> results = {{8192, "a", "books", Sequence(0)},
                                               {8192, "b", "books", Sequence(2)},
                                               {8192, "c", "code", Sequence(7)},
                                               {512, "c", "code", Sequence(50)}};
  const auto rows = QualityRows(results, kAxes);
  const QualityRow* all = FindRow(rows, "oracle-b", 0.05, 8192, "all");
  ASSERT_NE(all, nullptr);
  EXPECT_EQ(all->num_sequences, 3);
  EXPECT_NEAR(all->mean[0], 3 + 100 + 10 + 1 + 0.05 + 0.015, 1e-4);
  EXPECT_NEAR(all->mean[3], all->mean[0] + 0.003, 1e-4);
  const QualityRow* books = FindRow(rows, "window", 0.02, 8192, "books");
  ASSERT_NE(books, nullptr);
  EXPECT_EQ(books->num_sequences, 2);
  EXPECT_NEAR(books->mean[0], 1 + 1 + 0.05 + 0.015, 1e-4);
  EXPECT_NEAR(books->oracle_mass_c, books->mean[3] + 100, 1e-3);
  ASSERT_NE(FindRow(rows, "window", 0.02, 512, "all"), nullptr);
  EXPECT_EQ(FindRow(rows, "window", 0.02, 512, "all")->num_sequences, 1);
  EXPECT_EQ(FindRow(rows, "window", 0.02, 512, "code"), nullptr) << "one kind only: all are of it";
  EXPECT_EQ(FindRow(rows, "random", 0.02, 512, "code"), nullptr);
}

TEST(QualityRowsTest, HeadsKeepLayersOfTheModelApart) {
  const auto rows = HeadRows({{8192, "a", "books", Sequence(0)}, {8192, "b", "code", Sequence(4)}}, kAxes);
  EXPECT_EQ(rows.size(), 2u * 2 * 3 * 2);
  for (const HeadRow& row : rows) {
    const int layer = row.layer == 2 ? 0 : row.layer == 3 ? 1 : 2;
    const double expected =
        2 + (row.selector == "window" ? 0 : 100) + (row.budget == 0.02 ? 0 : 10) + layer + 0.1 * row.head + 0.015;
    EXPECT_NEAR(row.mean[0], expected, 1e-4);
  }
}

TEST(QualityRowsTest, QuantilesInterpolate) {
  std::vector<float> values;
  for (int i = 100; i >= 0; --i) values.push_back(static_cast<float>(i));
  EXPECT_DOUBLE_EQ(Quantile(values, 0.01), 1);
  EXPECT_DOUBLE_EQ(Quantile(values, 0.995), 99.5);
  EXPECT_DOUBLE_EQ(Quantile({3}, 0.01), 3);
  EXPECT_DOUBLE_EQ(Quantile({1, 2}, 0), 1);
  EXPECT_TRUE(std::isnan(Quantile({1, std::nanf(""), 2}, 0.5)));
}

QualityRow Row(const std::string& selector, double rec_b, double mass_c, double err) {
  QualityRow row;
  row.selector = selector;
  row.budget = 0.02;
  row.context = 8192;
  row.kind = "all";
  row.mean[static_cast<int>(Measure::kRecB)] = rec_b;
  row.mean[static_cast<int>(Measure::kIouA)] = 0.4;
  row.mean[static_cast<int>(Measure::kMassC)] = mass_c;
  row.mean[static_cast<int>(Measure::kErr)] = err;
  row.oracle_mass_c = 0.7;
  row.oracle_err = 0.09;
  return row;
}

EvaluationReport GoodReport() {
  EvaluationReport report;
  report.prefilter_factor = 4;
  report.rows = {Row("oracle-b", 1, 0.7, 0.09), Row("hash", 0.695, 0.655, 0.1), Row("hash-real", 0.7, 0.66, 0.1),
                 Row("hash-prefilter", 0.69, 0.65, 0.1), Row("hash:lin.safetensors", 0.57, 0.6, 0.13)};
  report.losses = HashLosses(report.rows);
  for (const QualityRow& row : report.rows) {
    SelectorDescription description;
    description.name = row.selector;
    report.selectors.push_back(description);
  }
  report.selectors.back().hash_path = "lin.safetensors";
  report.selectors.back().hash.encoder = "linear";
  report.selectors.back().hash.scoring = "symmetric";
  report.selectors.back().hash.recipe = "encoder=linear loss=ce query=bits";
  for (const double budget : {0.02, 0.05}) {
    for (const char* text : {"books/a", "books/b", "code/c"}) {
      for (const char* kind : {"running", "repeat", "needle"}) {
        PerplexityRow row;
        row.text = text;
        row.kind = kind;
        row.selector = "hash";
        row.budget = budget;
        row.oracle_b = 10;
        row.value = 10.02;
        report.perplexity.push_back(row);
      }
    }
  }
  return report;
}

int Count(const std::vector<QualityBar>& bars, BarResult result) {
  int count = 0;
  for (const QualityBar& bar : bars) count += bar.result == result ? 1 : 0;
  return count;
}

TEST(QualityBarsTest, AGoodHashPassesAll) {
  const auto bars = CheckBars(GoodReport(), /*absolute=*/true);
  EXPECT_EQ(Count(bars, BarResult::kPass), 13) << ToTable(bars);
  EXPECT_EQ(bars.size(), 13u);
  EXPECT_TRUE(Passed(bars));
  EXPECT_EQ(CheckBars(GoodReport(), /*absolute=*/false).size(), 7u);
}

TEST(QualityBarsTest, WhatIsNotANumberIsAMiss) {
  EvaluationReport report = GoodReport();
  for (PerplexityRow& row : report.perplexity) {
    const bool is_copied_code = row.text == "code/c" && row.kind == "needle";
    if (is_copied_code && row.budget == 0.02) row.value = std::nan("");
  }
  const auto bars = CheckBars(report, /*absolute=*/true);
  EXPECT_EQ(Count(bars, BarResult::kMiss), 1) << ToTable(bars);
}

TEST(QualityBarsTest, OneMissFailsAndIsNamed) {
  EvaluationReport report = GoodReport();
  report.rows[1].mean[static_cast<int>(Measure::kErr)] = 0.106;
  const auto bars = CheckBars(report, /*absolute=*/true);
  EXPECT_EQ(Count(bars, BarResult::kMiss), 1);
  EXPECT_FALSE(Passed(bars));
  EXPECT_NE(ToTable(bars).find("MISS  0.1060"), std::string::npos) << ToTable(bars);
}

TEST(QualityBarsTest, PerplexityIsOfAllTextsOfAKindTogether) {
  EvaluationReport report = GoodReport();
  for (PerplexityRow& row : report.perplexity) {
    if (row.kind != "needle" || row.budget != 0.02) continue;
    if (row.text == "books/a") row.value = 11;  // 1.1 and .99: 1.0436 together
    if (row.text == "books/b") row.value = 9.9;
    if (row.text == "code/c") row.value = 10.95;
  }
  const auto bars = CheckBars(report, /*absolute=*/false);
  EXPECT_NEAR(bars[5].value, 1.0436, 1e-4) << ToTable(bars);
  EXPECT_EQ(bars[5].result, BarResult::kPass);
  EXPECT_EQ(bars[6].result, BarResult::kMiss);
}

TEST(QualityBarsTest, WhatWasNotMeasuredIsSkippedAndNothingMeasuredIsNoPass) {
  const EvaluationReport nothing;
  const auto bars = CheckBars(nothing, /*absolute=*/true);
  EXPECT_EQ(Count(bars, BarResult::kSkipped), static_cast<int>(bars.size()));
  EXPECT_FALSE(Passed(bars));
  EXPECT_NE(ToTable(bars).find("no bar was checked"), std::string::npos);
  EvaluationReport report = GoodReport();
  EXPECT_EQ(ToTable(CheckBars(report, /*absolute=*/true)).find("no bar was checked"), std::string::npos);
  report.selectors.back().hash.recipe = "encoder=linear loss=bt query=bits";
  EXPECT_EQ(Count(CheckBars(report, /*absolute=*/true), BarResult::kSkipped), 1);
}

TEST(QualityBarsTest, OneKindOfTextOrCopyingDoesNotPassForTwo) {
  EvaluationReport report = GoodReport();
  const auto remove = [&](const char* text, const char* kind) {
    auto& rows = report.perplexity;
    rows.erase(
        std::remove_if(rows.begin(), rows.end(),
                       [&](const PerplexityRow& row) { return absl::StartsWith(row.text, text) && row.kind == kind; }),
        rows.end());
  };
  remove("books/", "needle");
  EXPECT_EQ(Count(CheckBars(report, /*absolute=*/true), BarResult::kSkipped), 1);
  remove("code/", "running");
  const auto bars = CheckBars(report, /*absolute=*/true);
  EXPECT_EQ(Count(bars, BarResult::kSkipped), 4 - 1) << ToTable(bars);
  EXPECT_EQ(Count(bars, BarResult::kPass), 10) << ToTable(bars);
}

TEST(QualityBarsTest, AbsoluteBarsAreForTheCommittedTexts) {
  EXPECT_TRUE(AreDefaultTexts({{"training/texts/eval/books/a.txt", "a", "books"}}));
  EXPECT_FALSE(AreDefaultTexts({{"training/texts/eval/books/a.txt", "a", "books"}, {"/tmp/b.txt", "b", "tmp"}}));
  EXPECT_FALSE(AreDefaultTexts({}));
}

TEST(ReportTest, JsonHoldsRowsHeadsAndWhatIsNotFinite) {
  EvaluationReport report = GoodReport();
  report.model_folder = "models/\xff";  // any bytes are a path
  report.rows[0].mean[static_cast<int>(Measure::kErr)] = 1.0 / 0.0;
  report.heads.push_back({"hash", 0.02, 8192, 7, 2, {}});
  QualityRow books = report.rows[1];
  books.kind = "books";
  report.rows.push_back(books);
  const auto json = nlohmann::json::parse(ToJson(report));
  EXPECT_EQ(json["format"], "spotlight-eval-1");
  EXPECT_EQ(json["rows"].size(), 5u);
  EXPECT_EQ(json["kinds"].size(), 1u);
  EXPECT_TRUE(json["rows"][0]["err"].is_null());
  EXPECT_EQ(json["rows"][1]["rec_b"], 0.695);
  EXPECT_EQ(json["heads"][0]["layer"], 7);
  EXPECT_EQ(json["losses"][0]["quantising"], 0.005);
  EXPECT_EQ(json["perplexity"].size(), 18u);
}

TEST(ReportTest, TableHasARowForEachSelectorAndBudget) {
  const std::string table = ToTable(GoodReport());
  for (const char* line :
       {"\nhash  ", "\nhash-prefilter  ", "recB lost by quantising 0.0050, by the prefilter 0.0050"}) {
    EXPECT_NE(table.find(line), std::string::npos) << line << "\n" << table;
  }
}

}  // namespace
}  // namespace spotlight::training
