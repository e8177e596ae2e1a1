#include "engine/step_time_model.h"

#include <algorithm>
#include <cmath>

#include "engine/short_chunk.h"

namespace spotlight::engine {
namespace {

constexpr double kWeightOfLatest = 0.25;  // in a remembered step
constexpr double kMaxOutlier = 4;         // a step counts as no more than this many times what was predicted
constexpr int kSweeps = 64;               // per step; the solution of the step before is where they begin
// Of the features, in a sweep. While few steps are remembered, time is put down to the first ones: a step's own time
// and tokens.
constexpr int kSweepOrder[] = {2, 0, 3, 4, 1};
constexpr double kRise = 0.5, kFall = 0.1;
// Of what fits: a chunk of fewer tokens would be cut to a short one, from which nothing is learned of long ones.
constexpr int32_t kMinLongChunk = kMaxShortChunk + kMaxShortChunk / 4;
constexpr double kMinCorrection = 0.5, kMaxCorrection = 4;
// Features of about the same size make the sweeps converge: thousands of tokens, millions of pairs.
constexpr double kTokenScale = 1.0 / 1024, kAttendedScale = 1.0 / (1 << 20);

int32_t Octave(double value) {
  return value < 1 ? 0 : static_cast<int32_t>(std::log2(value)) + 1;
}

// Which remembered step a step is averaged with.
int32_t OctavesOf(const StepWork& work) {
  if (work.num_prefill_tokens == 0) return Octave(work.num_decode_rows);
  return 64 * Octave(work.num_prefill_tokens) + Octave(work.attended / work.num_prefill_tokens);
}

bool IsShort(const StepWork& work) {
  return work.num_decode_rows > 0 && work.num_chunks == 1 && work.num_prefill_tokens <= kMaxShortChunk;
}

}  // namespace

void StepWork::AddChunk(int32_t begin, int32_t count) {
  ++num_chunks;
  num_prefill_tokens += count;
  past += begin;
  attended += static_cast<double>(count) * begin + 0.5 * count * (count + 1.0);
}

StepTimeModel::Features StepTimeModel::FeaturesOf(const StepWork& work) {
  return {1, static_cast<double>(work.num_decode_rows), kTokenScale * work.num_prefill_tokens,
          kAttendedScale * work.attended, kTokenScale * work.past};
}

void StepTimeModel::Fit::Add(int32_t octaves, const Features& features, double seconds) {
  const bool first = points_.count(octaves) == 0;
  const double predicted = At(features);
  if (points_.size() > 1 && predicted > 0) seconds = std::min(seconds, kMaxOutlier * predicted);
  Point& point = points_[octaves];
  const double weight = first ? 1 : kWeightOfLatest;
  for (int i = 0; i < kFeatures; ++i) point.features[i] += weight * (features[i] - point.features[i]);
  point.seconds += weight * (seconds - point.seconds);
  Solve();
}

double StepTimeModel::Fit::At(const Features& features) const {
  double seconds = 0;
  for (int i = 0; i < kFeatures; ++i) seconds += coefficients_[i] * features[i];
  return seconds;
}

double StepTimeModel::Fit::Near(int32_t octaves, const Features& features) const {
  const auto found = points_.find(octaves);
  const double there = found == points_.end() ? 0 : At(found->second.features);
  return there > 0 ? At(features) * found->second.seconds / there : At(features);
}

// Least squares of the relative errors, by projected Gauss-Seidel on the normal equations.
void StepTimeModel::Fit::Solve() {
  std::array<Features, kFeatures> products = {};
  Features sums = {};
  for (const auto& [octaves, point] : points_) {
    const double weight = 1 / (point.seconds * point.seconds);
    for (int i = 0; i < kFeatures; ++i) {
      sums[i] += weight * point.features[i] * point.seconds;
      for (int j = 0; j < kFeatures; ++j) products[i][j] += weight * point.features[i] * point.features[j];
    }
  }
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (const int i : kSweepOrder) {
      if (products[i][i] == 0) continue;
      double rest = sums[i];
      for (int j = 0; j < kFeatures; ++j) rest -= j == i ? 0 : products[i][j] * coefficients_[j];
      coefficients_[i] = std::max(0.0, rest / products[i][i]);
    }
  }
}

void StepTimeModel::Add(const StepWork& work, double seconds) {
  if (!(seconds > 0)) return;
  const Features features = FeaturesOf(work);
  const int32_t octaves = OctavesOf(work);
  if (work.num_prefill_tokens == 0) {
    decode_.Add(octaves, features, seconds);
    return short_.fit.Add(octaves, features, seconds);
  }
  const bool is_short = IsShort(work);
  Mixed& mixed = is_short ? short_ : long_;
  const double predicted = mixed.fit.At(features);
  const bool known = is_short ? has_short_ : predicted > 0;
  if (work.num_decode_rows > 0 && known) {
    const double error = std::min(kMaxCorrection, std::max(kMinCorrection, seconds / predicted));
    mixed.correction += (error > mixed.correction ? kRise : kFall) * (error - mixed.correction);
  }
  // While chunks are short nothing else is learned of long ones.
  if (is_short) long_.correction += kFall * (1 - long_.correction);
  mixed.fit.Add(octaves, features, seconds);
  has_short_ |= is_short;
  most_prefill_tokens_ = std::max(most_prefill_tokens_, work.num_prefill_tokens);
}

double StepTimeModel::DecodeSeconds(int32_t num_decode_rows) const {
  StepWork work;
  work.num_decode_rows = num_decode_rows;
  return decode_.empty() ? long_.fit.At(FeaturesOf(work)) : decode_.Near(OctavesOf(work), FeaturesOf(work));
}

int32_t StepTimeModel::MaxChunkTokens(const StepWork& work, int32_t begin, double seconds) const {
  const int32_t most = std::max(kFirstChunkTokens, 2 * std::min(most_prefill_tokens_, 1 << 29));
  if (long_.fit.empty() || seconds == 0) return std::max(0, kFirstChunkTokens - work.num_prefill_tokens);
  const int32_t tokens = Fitting(long_, work, begin, seconds, std::max(0, most - work.num_prefill_tokens));
  if (tokens >= kMinLongChunk || !has_short_ || work.num_chunks > 0 || work.num_decode_rows == 0) return tokens;
  return Fitting(short_, work, begin, seconds, kMaxShortChunk);
}

int32_t StepTimeModel::Fitting(const Mixed& mixed, const StepWork& work, int32_t begin, double seconds,
                               int32_t most) const {
  const auto added = [&](int32_t tokens) {
    StepWork more;
    more.AddChunk(begin, tokens);
    Features features = FeaturesOf(more);
    features[0] = 0;
    return mixed.fit.At(features);
  };
  StepWork rows;
  rows.num_decode_rows = work.num_decode_rows;
  // A step that prefills too takes no less than one that only decodes: what matters before small chunks have been seen.
  const double without_chunks = mixed.fit.At(FeaturesOf(rows));
  const double chunks = mixed.fit.At(FeaturesOf(work)) - without_chunks;
  const double left =
      seconds / mixed.correction - std::max(without_chunks, DecodeSeconds(work.num_decode_rows)) - chunks;
  if (left <= 0) return 0;
  int32_t low = 0, high = most;  // added(low) <= left
  if (added(high) <= left) return high;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    (added(middle) <= left ? low : high) = middle;
  }
  return low;
}

}  // namespace spotlight::engine
