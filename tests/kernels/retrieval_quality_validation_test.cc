// The same for retrieval_quality, which also reads a selection.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "kernels/retrieval_quality.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/decode_faults.h"

namespace spotlight::kernels::testing {
namespace {

using Q = RetrievalQualityParams;

constexpr float* Q::*kMetrics[] = {&Q::recall,         &Q::iou,         &Q::candidate_mass, &Q::oracle_mass,
                                   &Q::attention_mass, &Q::output_error};

// One entry of what was selected, changed in a copy.
Fault<Q> SelectedFault(const std::string& message, const Q& good, Arena* arena, int64_t index, int32_t token) {
  const int64_t size = int64_t{good.num_rows} * good.num_kv_heads * good.max_select;
  auto* selected = arena->Allocate<int32_t>(size);
  std::copy_n(good.selected, size, selected);
  selected[index] = token;
  return {message + " = " + std::to_string(token), [=](Q* p) { p->selected = selected; }};
}

Fault<Q> CountFault(const std::string& message, Arena* arena, int32_t first, int32_t second) {
  auto* counts = arena->Allocate<int32_t>(2);
  counts[0] = first;
  counts[1] = second;
  return {message, [=](Q* p) { p->num_selected = counts; }};
}

TEST(RetrievalQualityValidationTest, NamesTheBadField) {
  DecodeShape shape;
  shape.extra_bytes = 1 << 16;
  DecodeCase test(shape);
  ASSERT_TRUE(SparseDecode(test.Sparse()).ok());
  Arena* arena = test.arena();
  Q good = test.Quality();
  for (const auto metric : kMetrics) good.*metric = arena->Allocate<float>(good.num_kv_heads);
  ASSERT_TRUE(RetrievalQuality(good).ok()) << RetrievalQuality(good);
  ASSERT_EQ(good.num_selected[1], 64);
  good.workspace_bytes = RetrievalQualityWorkspaceBytes(DeviceKind::kCuda, 1, good.max_context, good.num_q_heads,
                                                        good.num_kv_heads, good.head_dim);
  good.workspace = reinterpret_cast<void*>(4096);
  ASSERT_GT(good.workspace_bytes, 1);
  auto faults = Concat<Q>(
      RowFaults<Q>(), {Null("num_select", &Q::num_select), Shifted("num_select", &Q::num_select, 2),
                       Set("sink_tokens", &Q::sink_tokens, -1), Set("sink_tokens", &Q::sink_tokens, INT32_MAX),
                       Set("recent_tokens", &Q::recent_tokens, -1), Set("recent_tokens", &Q::recent_tokens, INT32_MAX),
                       Null("selected", &Q::selected), Shifted("selected", &Q::selected, 2),
                       Set("max_select", &Q::max_select, 0), Set("max_select", &Q::max_select, -1),
                       Null("num_selected", &Q::num_selected), Shifted("num_selected", &Q::num_selected, 1),
                       Null("sparse_out", &Q::sparse_out), Shifted("sparse_out", &Q::sparse_out, 8)});
  const char* const names[] = {"recall", "iou", "candidate_mass", "oracle_mass", "attention_mass", "output_error"};
  for (size_t i = 0; i < std::size(names); ++i) {
    faults.push_back(Null(names[i], kMetrics[i]));
    faults.push_back(Shifted(names[i], kMetrics[i], 2));
  }
  // Ascending candidates, no more than there is room for.
  const auto contents = Concat<Q>(
      ContentFaults<Q>(arena),
      {SelectedFault("selected[0][0][0]", good, arena, 0, kSinkTokens - 1),
       SelectedFault("selected[0][1][63]", good, arena, good.max_select + 63, 300 - kRecentTokens),
       SelectedFault("selected[0][0][5]", good, arena, 5, good.selected[4]),
       CountFault("num_selected[0][0] = -1", arena, -1, 64), CountFault("num_selected[0][1] = 301", arena, 64, 301)});
  const ArenaCopy before(*arena);
  ExpectRefused(good, RetrievalQuality, Concat(faults, WorkspaceFaults<Q>()), DeviceKind::kCuda);
  ExpectRefused(good, RetrievalQuality, Concat(faults, contents), DeviceKind::kCpu);
  EXPECT_TRUE(before.EqualsOutside(*arena, {}));
}

}  // namespace
}  // namespace spotlight::kernels::testing
