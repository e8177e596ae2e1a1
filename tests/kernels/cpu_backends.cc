#include "kernels/cpu/dense_decode.h"
#include "kernels/cpu/encode_and_append.h"
#include "kernels/cpu/level.h"
#include "kernels/cpu/pointwise.h"
#include "kernels/cpu/retrieval_quality.h"
#include "kernels/cpu/sparse_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/threads.h"

namespace spotlight::kernels::testing {
namespace {

// One instruction set on a number of threads, below the wrapper.
class LevelBackend : public Backend {
 public:
  LevelBackend(cpu::Level level, int num_threads)
      : level_(level), num_threads_(num_threads), parallel_for_(OnThreads(num_threads)) {}

  std::string name() const override { return std::string(cpu::LevelName(level_)) + std::to_string(num_threads_); }
  absl::Status Run(EncodeAndAppendParams params, Arena*) override {
    params.execution = execution();
    cpu::EncodeAndAppend(params, level_);
    return absl::OkStatus();
  }
  absl::Status Run(SparseDecodeParams params, Arena*) override {
    params.execution = execution();
    cpu::SparseDecode(params, level_);
    return absl::OkStatus();
  }
  absl::Status Run(DenseDecodeParams params, Arena*) override {
    params.execution = execution();
    cpu::DenseDecode(params, level_);
    return absl::OkStatus();
  }
  absl::Status Run(RetrievalQualityParams params, Arena*) override {
    params.execution = execution();
    cpu::RetrievalQuality(params, level_);
    return absl::OkStatus();
  }
  absl::Status Run(AddRmsNormParams params, Arena*) override {
    params.execution = execution();
    cpu::AddRmsNorm(params, level_);
    return absl::OkStatus();
  }
  absl::Status Run(SiluMulParams params, Arena*) override {
    params.execution = execution();
    cpu::SiluMul(params, level_);
    return absl::OkStatus();
  }

 private:
  Execution execution() const {
    Execution execution;
    if (num_threads_ > 1) execution.parallel_for = &parallel_for_;
    return execution;
  }

  const cpu::Level level_;
  const int num_threads_;
  const ParallelFor parallel_for_;
};

// The public operations, as the engine calls them.
class PublicBackend : public Backend {
 public:
  std::string name() const override { return "public"; }
  absl::Status Run(EncodeAndAppendParams params, Arena*) override { return EncodeAndAppend(params); }
  absl::Status Run(SparseDecodeParams params, Arena*) override { return SparseDecode(params); }
  absl::Status Run(DenseDecodeParams params, Arena*) override { return DenseDecode(params); }
  absl::Status Run(RetrievalQualityParams params, Arena*) override { return RetrievalQuality(params); }
  absl::Status Run(AddRmsNormParams params, Arena*) override { return AddRmsNorm(params); }
  absl::Status Run(SiluMulParams params, Arena*) override { return SiluMul(params); }
};

}  // namespace

const std::vector<std::unique_ptr<Backend>>& Backends() {
  static const auto* const backends = [] {
    auto* all = new std::vector<std::unique_ptr<Backend>>;
    for (const cpu::Level level : cpu::SupportedLevels()) {
      all->push_back(std::make_unique<LevelBackend>(level, 1));
      all->push_back(std::make_unique<LevelBackend>(level, 3));
    }
    all->push_back(std::make_unique<PublicBackend>());
    return all;
  }();
  return *backends;
}

}  // namespace spotlight::kernels::testing
