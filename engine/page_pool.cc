#include "engine/page_pool.h"

#include <cassert>

namespace spotlight::engine {

PagePool::PagePool(int32_t num_pages) : owned_(num_pages, false) {
  free_.reserve(num_pages);
  for (int32_t page = num_pages - 1; page >= 0; --page) free_.push_back(page);
}

bool PagePool::Allocate(int32_t count, std::vector<int32_t>* pages) {
  if (count > num_free()) return false;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t page = free_.back();
    free_.pop_back();
    assert(!owned_[page]);
    owned_[page] = true;
    pages->push_back(page);
  }
  return true;
}

void PagePool::Free(std::vector<int32_t>* pages) {
  for (const int32_t page : *pages) {
    assert(page >= 0 && page < num_pages() && owned_[page]);
    owned_[page] = false;
    free_.push_back(page);
  }
  pages->clear();
}

}  // namespace spotlight::engine
