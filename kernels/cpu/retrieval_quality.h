// retrieval_quality on the CPU. The params must be valid. Returns when done.
#pragma once

#include "kernels/cpu/level.h"
#include "kernels/retrieval_quality.h"

namespace spotlight::kernels::cpu {

void RetrievalQuality(const RetrievalQualityParams& params, Level level);

}  // namespace spotlight::kernels::cpu
