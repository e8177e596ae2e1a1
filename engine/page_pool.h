// Who holds which page of the KV cache: integers only, the pages' memory is the model runner's.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/layout.h"

namespace spotlight::engine {

// Count: int32_t or int64_t.
template <typename Count>
constexpr Count PagesFor(Count num_tokens) {
  return (num_tokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
}

// A page is free, held by one or more, or kept: held by none, its content worth keeping for as long as nobody needs the
// page. Kept pages are as good as free ones to whoever allocates. Thread-compatible.
class PagePool {
 public:
  explicit PagePool(int32_t num_pages);

  // Appends `count` pages to `pages`, each held once: free ones first, then those that nobody has held for the longest
  // time, which are appended to `reclaimed` as well. Takes nothing and returns false when there are fewer.
  bool Allocate(int32_t count, std::vector<int32_t>* pages, std::vector<int32_t>* reclaimed);
  // One more holder of a page that is held or kept.
  void Hold(int32_t page);
  // One holder less of each page; clears `pages`. Pages that nobody holds any more become kept or free, the last of
  // `pages` as the oldest: a sequence's later pages are worth nothing without the earlier ones.
  void Release(std::vector<int32_t>* pages);
  // Whether a page that is held or kept is kept when nobody holds it. Allocate makes it false.
  void SetKeep(int32_t page, bool keep);

  int32_t num_pages() const { return static_cast<int32_t>(pages_.size()) - 1; }
  // Free or kept: what Allocate can give.
  int32_t num_free() const { return static_cast<int32_t>(free_.size()) + num_kept_; }
  int32_t num_kept() const { return num_kept_; }
  int32_t num_holders(int32_t page) const { return pages_[page].num_holders; }

 private:
  struct Page {
    int32_t num_holders = 0;
    bool keep = false;
    int32_t older = 0, newer = 0;  // of a kept page: its neighbours in the order of release
  };
  void Keep(int32_t page);
  void Unkeep(int32_t page);

  std::vector<int32_t> free_;  // a stack: the page freed last, likeliest in a processor's cache, is used first
  std::vector<Page> pages_;    // one more than there are: the ring of the kept pages begins and ends at it
  int32_t num_kept_ = 0;
};

}  // namespace spotlight::engine
