// How long a step will take, learned from the steps before it: what a chunk of a prompt may hold while others decode.
//
//   seconds = c0 + c1 * decode rows + c2 * prefill tokens + c3 * attended + c4 * past   (a step with prefill)
//   seconds = d0 + d1 * decode rows                                                     (a step without)
//
// `attended` counts the pairs of a prefill token and a cached token that it sees, `past` the tokens before the chunks,
// which are read however few tokens a chunk has. The two are fitted apart: a step that only decodes may be a CUDA
// graph. So may one with a single short chunk beside its decode rows (short_chunk.h): such steps have a fit of their
// own, of the first form, which steps that only decode are points of, too. Coefficients are not negative. They are
// fitted to one remembered step (an average of the latest ones) for every octave of prefill tokens and of their
// context, of decode rows in the other case, so that hundreds of steps of one size do not make it forget what the
// others were like; each counts by its relative error. On top a factor follows how far the latest mixed steps were off,
// rising fast and falling slowly: small chunks are less efficient than any line says. Values are the caller's alone:
// the same steps give the same model.
#pragma once

#include <array>
#include <cstdint>
#include <map>

namespace spotlight::engine {

struct StepWork {
  int32_t num_decode_rows = 0;
  int32_t num_chunks = 0, num_prefill_tokens = 0;
  double attended = 0, past = 0;

  // The tokens [begin, begin + count) of a prompt.
  void AddChunk(int32_t begin, int32_t count);
};

// Engine thread only.
class StepTimeModel {
 public:
  // Nothing is learned from a step of no time.
  void Add(const StepWork& work, double seconds);

  // A step of so many rows and no prefill; 0: not known.
  double DecodeSeconds(int32_t num_decode_rows) const;

  // How many tokens of a prompt, from position `begin` on, `work` may take on so that the step takes no more than
  // `seconds`. At most twice what a step has ever taken; kFirstChunkTokens a step while no such step has been seen or
  // `seconds` is 0: not known. May be 0.
  // Where that would be little more than a short chunk, it is the longest short one.
  int32_t MaxChunkTokens(const StepWork& work, int32_t begin, double seconds) const;

  static constexpr int32_t kFirstChunkTokens = 256;

 private:
  static constexpr int kFeatures = 5;
  using Features = std::array<double, kFeatures>;

  // A linear function with coefficients >= 0, fitted to remembered points.
  class Fit {
   public:
    void Add(int32_t octaves, const Features& features, double seconds);
    double At(const Features& features) const;
    // The same, scaled by how far the remembered step of these octaves is from it, if there is one.
    double Near(int32_t octaves, const Features& features) const;
    bool empty() const { return points_.empty(); }

   private:
    struct Point {
      Features features = {};
      double seconds = 0;
    };
    void Solve();
    std::map<int32_t, Point> points_;
    Features coefficients_ = {};
  };

  // Steps that prefill beside decode rows.
  struct Mixed {
    Fit fit;
    double correction = 1;  // by how much the latest were off
  };

  static Features FeaturesOf(const StepWork& work);
  // At most `most` tokens after `begin` that `work` may take on.
  int32_t Fitting(const Mixed& mixed, const StepWork& work, int32_t begin, double seconds, int32_t most) const;

  Fit decode_;
  Mixed long_, short_;
  bool has_short_ = false;
  int32_t most_prefill_tokens_ = 0;
};

}  // namespace spotlight::engine
