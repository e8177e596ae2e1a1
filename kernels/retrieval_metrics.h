// The last step of retrieval_quality: from counts and sums to ratios, in double. The same lines for CPU and CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/retrieval_quality.h"
#include "kernels/token_list.h"

namespace spotlight::kernels {

struct RetrievalSums {
  int32_t num_hits = 0, num_selected = 0, num_oracle = 0;  // hits: selected and in oracle B
  double selected_mass = 0, oracle_mass = 0, candidate_mass = 0, total_mass = 0;
  double error_squares = 0, dense_squares = 0;
};

// Sums round apart from each other: a part can come out a bit larger than the whole.
SPOTLIGHT_HOST_DEVICE inline float MassShare(double part, double whole) {
  if (whole <= 0) return 1.0f;
  const double share = part / whole;
  return static_cast<float>(share > 1 ? 1.0 : share);
}

SPOTLIGHT_HOST_DEVICE inline void WriteMetrics(const RetrievalSums& sums, const RetrievalQualityParams& params,
                                               int64_t row_head) {
  const double hits = sums.num_hits;
  params.recall[row_head] = static_cast<float>(hits / sums.num_oracle);
  params.iou[row_head] = static_cast<float>(hits / (double{1} * sums.num_selected + sums.num_oracle - hits));
  params.candidate_mass[row_head] = sums.num_selected == 0 ? 0.0f : MassShare(sums.selected_mass, sums.candidate_mass);
  params.oracle_mass[row_head] = MassShare(sums.oracle_mass, sums.candidate_mass);
  params.attention_mass[row_head] =
      MassShare(sums.total_mass - sums.candidate_mass + sums.selected_mass, sums.total_mass);
  params.output_error[row_head] =
      sums.error_squares == 0 ? 0.0f : static_cast<float>(sqrt(sums.error_squares / sums.dense_squares));
}

// A row that attends to everything, or a padding row.
SPOTLIGHT_HOST_DEVICE inline void WriteNothingToJudge(const RetrievalQualityParams& params, int64_t row_head) {
  params.recall[row_head] = params.iou[row_head] = 1.0f;
  params.candidate_mass[row_head] = params.oracle_mass[row_head] = params.attention_mass[row_head] = 1.0f;
  params.output_error[row_head] = 0.0f;
}

}  // namespace spotlight::kernels
