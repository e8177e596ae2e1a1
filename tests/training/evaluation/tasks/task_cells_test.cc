// Suites of examples with a real tokenizer.
#include "training/evaluation/tasks/task_cells.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace spotlight::training {
namespace {

class TaskCellsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = engine::Tokenizer::Load("tests/testdata/smollm2/tokenizer.json");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  std::unique_ptr<engine::Tokenizer> tokenizer_;
};

TEST_F(TaskCellsTest, EveryTaskFitsItsLengthClosely) {
  auto cells = MakeTaskCells({}, {1024, 3000}, 2, 1, EncodeWith(*tokenizer_));
  ASSERT_TRUE(cells.ok()) << cells.status();
  ASSERT_EQ(cells->size(), 2 * GeneratedTasks().size());
  for (const TaskCell& cell : *cells) {
    SCOPED_TRACE(absl::StrCat(cell.task, " ", cell.length));
    ASSERT_EQ(cell.examples.size(), 2u);
    for (const EncodedExample& example : cell.examples) {
      EXPECT_LE(example.num_tokens(), cell.length);
      EXPECT_GT(example.num_tokens(), cell.length - 60);
    }
  }
}

TEST_F(TaskCellsTest, PiecesAreTokensOfTheWhole) {
  auto cells = MakeTaskCells({}, {1024}, 2, 5, EncodeWith(*tokenizer_));
  ASSERT_TRUE(cells.ok()) << cells.status();
  for (const TaskCell& cell : *cells) {
    SCOPED_TRACE(cell.task);
    for (const EncodedExample& example : cell.examples) {
      const TaskExample& text = example.example;
      auto whole = tokenizer_->Encode(absl::StrCat(text.context, text.question, text.answer), true);
      ASSERT_TRUE(whole.ok()) << whole.status();
      std::vector<int32_t> pieces = example.context;
      pieces.insert(pieces.end(), example.question.begin(), example.question.end());
      pieces.insert(pieces.end(), example.answer.begin(), example.answer.end());
      EXPECT_EQ(pieces, *whole);
    }
  }
}

TEST_F(TaskCellsTest, ExamplesDifferByTaskSeedAndPlaceAndOnlyGrowWithTheLength) {
  const EncodeFunction encode = EncodeWith(*tokenizer_);
  std::set<std::string> questions;
  int64_t examples = 0;
  for (const uint64_t seed : {1, 2}) {
    auto cells = MakeTaskCells({"needle", "multi_key", "many_keys"}, {1024, 2048}, 3, seed, encode);
    ASSERT_TRUE(cells.ok()) << cells.status();
    for (size_t i = 0; i < cells->size(); ++i) {
      for (size_t e = 0; e < 3; ++e) {
        const TaskExample& example = (*cells)[i].examples[e].example;
        questions.insert(example.question);
        ++examples;
        // A needle's key does not depend on how much there is around it.
        if ((*cells)[i].task == "needle") {
          EXPECT_EQ(example.question, (*cells)[0].examples[e].example.question);
        }
      }
    }
  }
  // needle and multi_key ask the same at both lengths.
  EXPECT_EQ(static_cast<int64_t>(questions.size()), examples - 2 * 3 * 2);
}

TEST_F(TaskCellsTest, TheGridHasACellForEachLengthAndDepth) {
  auto grid = MakeNeedleGrid({1024, 2048}, {0, 0.5, 1}, 1, 1, EncodeWith(*tokenizer_));
  ASSERT_TRUE(grid.ok()) << grid.status();
  ASSERT_EQ(grid->size(), 6u);
  for (const TaskCell& cell : *grid) {
    const TaskExample& example = cell.examples[0].example;
    const double at = static_cast<double>(example.context.find(example.references[0]));
    EXPECT_NEAR(at / static_cast<double>(example.context.size()), *cell.depth, 0.05);
  }
}

}  // namespace
}  // namespace spotlight::training
