// Small deterministic damage to an input, as files and messages get it: for a corpus runner that has no coverage to be
// guided by.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace spotlight::fuzz {

// Thread-compatible. Same seed and calls, same results.
class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  // One to four changes: bits, bytes, structure characters, repeats, cuts, a part of one of `others`, numbers (written
  // out or little-endian) at the bounds of their types.
  std::string Mutate(std::string bytes, const std::vector<std::string>& others);

 private:
  void ChangeOnce(std::string* bytes, const std::vector<std::string>& others);
  void ReplaceWrittenNumber(std::string* bytes);
  void ReplaceStoredNumber(std::string* bytes, size_t at);
  size_t Below(size_t bound) { return random_() % bound; }

  std::mt19937_64 random_;
};

}  // namespace spotlight::fuzz
