#include "engine/prefix_cache.h"

#include <cassert>

namespace spotlight::engine {

PrefixCache::PrefixCache(int32_t num_pages) : hashes_(num_pages) {}

void PrefixCache::Find(absl::Span<const PageHash> hashes, std::vector<int32_t>* pages) const {
  for (const PageHash& hash : hashes) {
    const auto found = pages_.find(hash);
    if (found == pages_.end()) return;
    pages->push_back(found->second);
  }
}

bool PrefixCache::Insert(const PageHash& hash, int32_t page) {
  assert(!hashes_[page].has_value());
  if (!pages_.emplace(hash, page).second) return false;
  hashes_[page] = hash;
  return true;
}

void PrefixCache::Forget(int32_t page) {
  if (!hashes_[page].has_value()) return;
  pages_.erase(*hashes_[page]);
  hashes_[page].reset();
}

}  // namespace spotlight::engine
