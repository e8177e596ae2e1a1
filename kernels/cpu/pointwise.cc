#include "kernels/cpu/pointwise.h"

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/parallel.h"

namespace spotlight::kernels::cpu {
namespace {

// Below this, waking a thread costs more than it saves: some ten microseconds of work.
constexpr int64_t kMinParallelElements = 1 << 15;

template <class Body>
void ParallelRows(const Execution& execution, int64_t num_rows, int64_t width, const Body& body) {
  if (num_rows * width < kMinParallelElements) {
    body(0, num_rows);
  } else {
    ParallelItems(execution, num_rows, body);
  }
}

}  // namespace

void AddRmsNorm(const AddRmsNormParams& params, Level level) {
  const auto add_rms_norm = KernelsOf(level).add_rms_norm[static_cast<int>(params.dtype)];
  const int64_t row_bytes = params.hidden * static_cast<int64_t>(SizeOf(params.dtype));
  ParallelRows(params.execution, params.num_tokens, params.hidden, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      NormRow work;
      work.size = params.hidden;
      work.eps = params.eps;
      work.x = static_cast<char*>(params.x) + row * row_bytes;
      if (params.delta != nullptr) work.delta = static_cast<const char*>(params.delta) + row * row_bytes;
      work.weight = params.weight;
      work.out = static_cast<char*>(params.out) + row * row_bytes;
      add_rms_norm(work);
    }
  });
}

void SiluMul(const SiluMulParams& params, Level level) {
  const auto silu_mul = KernelsOf(level).silu_mul[static_cast<int>(params.dtype)];
  const int64_t row_bytes = params.intermediate * static_cast<int64_t>(SizeOf(params.dtype));
  ParallelRows(params.execution, params.num_tokens, params.intermediate, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const char* gate = static_cast<const char*>(params.gate_up) + 2 * row * row_bytes;
      silu_mul(gate, gate + row_bytes, params.intermediate, static_cast<char*>(params.out) + row * row_bytes);
    }
  });
}

}  // namespace spotlight::kernels::cpu
