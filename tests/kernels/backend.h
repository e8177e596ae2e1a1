// What a test of an operation runs on. The test bodies are the same for every backend; the build links one set.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/dense_decode.h"
#include "kernels/encode_and_append.h"
#include "kernels/pointwise.h"
#include "kernels/retrieval_quality.h"
#include "kernels/sparse_decode.h"
#include "tests/kernels/arena.h"

namespace spotlight::kernels::testing {

// Pointers in the params point into `arena`, inputs and outputs alike, or are null; execution and workspace are the
// backend's business.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  virtual absl::Status Run(EncodeAndAppendParams params, Arena* arena) = 0;
  virtual absl::Status Run(SparseDecodeParams params, Arena* arena) = 0;
  virtual absl::Status Run(DenseDecodeParams params, Arena* arena) = 0;
  virtual absl::Status Run(RetrievalQualityParams params, Arena* arena) = 0;
  virtual absl::Status Run(AddRmsNormParams params, Arena* arena) = 0;
  virtual absl::Status Run(SiluMulParams params, Arena* arena) = 0;
};

// Whether it takes pages in e4m3 beside queries of `dtype`.
inline bool HasE4m3Pages(const Backend& backend, DType dtype) {
  return dtype == DType::kBF16 || (dtype == DType::kF32 && backend.name().rfind("cuda", 0) != 0);
}

// At least one. A missing device is not an empty list: its backend fails every run.
const std::vector<std::unique_ptr<Backend>>& Backends();

}  // namespace spotlight::kernels::testing
