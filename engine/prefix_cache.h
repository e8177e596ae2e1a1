// Which pages hold the beginnings of which contexts: content hashes to pages. Whether a page is held, kept or given to
// another is the page pool's business; the scheduler tells this class when a page's content ends.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/page_hash.h"

namespace spotlight::engine {

// At most one page has a hash, and a page at most one hash. Thread-compatible.
class PrefixCache {
 public:
  explicit PrefixCache(int32_t num_pages);

  // The pages of the longest known beginning of `hashes`, in order.
  void Find(absl::Span<const PageHash> hashes, std::vector<int32_t>* pages) const;
  // `page` holds from now on what `hash` names. False, and nothing is remembered, when another page does already.
  bool Insert(const PageHash& hash, int32_t page);
  // Its content is void; nothing when it has no hash.
  void Forget(int32_t page);

  int32_t num_pages() const { return static_cast<int32_t>(pages_.size()); }  // with a hash

 private:
  std::unordered_map<PageHash, int32_t, PageHashBits> pages_;
  std::vector<absl::optional<PageHash>> hashes_;  // by page
};

}  // namespace spotlight::engine
