#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <cstring>

namespace spotlight::fuzz {
namespace {

constexpr size_t kMaxBytes = 64 << 10;
constexpr char kDigits[] = "0123456789";
constexpr char kStructure[] = "0123456789-.eE{}[]\",: ntf";
const char* const kWritten[] = {"0",
                                "-0",
                                "1",
                                "-1",
                                "127",
                                "128",
                                "255",
                                "256",
                                "65535",
                                "65536",
                                "2147483647",
                                "2147483648",
                                "-2147483648",
                                "1e-999",
                                "4294967295",
                                "4294967296",
                                "1e308",
                                "1e999",
                                "0.999999",
                                "9223372036854775807",
                                "1e38",
                                "1e39",
                                "9999999999999999999999",
                                "18446744073709551615"};
constexpr uint64_t kStored[] = {0,          1,          0x7f,       0x80,       0xff,           0x7fff,
                                0x8000,     0xffff,     0x7fffffff, 0x80000000, 0xffffffff,     0x7f800000,
                                0x7fc00000, 0xff800000, INT64_MAX,  UINT64_MAX, UINT64_MAX - 7, uint64_t{1} << 63};

}  // namespace

std::string Mutator::Mutate(std::string bytes, const std::vector<std::string>& others) {
  for (size_t changes = 1 + Below(4); changes > 0; --changes) ChangeOnce(&bytes, others);
  if (bytes.size() > kMaxBytes) bytes.resize(kMaxBytes);
  return bytes;
}

void Mutator::ChangeOnce(std::string* bytes, const std::vector<std::string>& others) {
  // Structure comes first in most formats: every other change falls into the first 2 KB.
  const size_t span = Below(2) == 0 ? std::min<size_t>(bytes->size(), 2048) : bytes->size();
  const size_t at = Below(span + 1);
  const bool inside = at < bytes->size();
  switch (Below(9)) {
    case 0:
      if (inside) (*bytes)[at] = static_cast<char>((*bytes)[at] ^ 1 << Below(8));
      return;
    case 1:
      if (inside) (*bytes)[at] = static_cast<char>(Below(256));
      return;
    case 2:
      if (inside) (*bytes)[at] = kStructure[Below(sizeof(kStructure) - 1)];
      return;
    case 3: {
      const std::string part = bytes->substr(at, Below(64));
      for (size_t times = 1 + Below(8); times > 0; --times) bytes->insert(at, part);
      return;
    }
    case 4:
      bytes->erase(at, Below(32));
      return;
    case 5:
      if (Below(4) == 0) bytes->resize(at);
      return;
    case 6: {
      if (others.empty()) return;
      const std::string& other = others[Below(others.size())];
      bytes->insert(at, other, Below(other.size() + 1), Below(256));
      return;
    }
    case 7:
      return ReplaceWrittenNumber(bytes);
    default:
      return ReplaceStoredNumber(bytes, at);
  }
}

void Mutator::ReplaceWrittenNumber(std::string* bytes) {
  if (bytes->empty()) return;
  const size_t begin = bytes->find_first_of(kDigits, Below(bytes->size()));
  if (begin == std::string::npos) return;
  const size_t end = std::min(bytes->find_first_not_of(kDigits, begin), bytes->size());
  bytes->replace(begin, end - begin, kWritten[Below(std::size(kWritten))]);
}

void Mutator::ReplaceStoredNumber(std::string* bytes, size_t at) {
  const uint64_t value = kStored[Below(std::size(kStored))];
  const size_t width = std::min<size_t>(size_t{1} << Below(4), bytes->size() - at);
  std::memcpy(bytes->data() + at, &value, width);
}

}  // namespace spotlight::fuzz
