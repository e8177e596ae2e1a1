#include "engine/page_pool.h"

#include <cassert>

namespace spotlight::engine {

PagePool::PagePool(int32_t num_pages) : pages_(num_pages + 1) {
  free_.reserve(num_pages);
  for (int32_t page = num_pages - 1; page >= 0; --page) free_.push_back(page);
  pages_[num_pages].older = pages_[num_pages].newer = num_pages;
}

bool PagePool::Allocate(int32_t count, std::vector<int32_t>* pages, std::vector<int32_t>* reclaimed) {
  if (count > num_free()) return false;
  for (int32_t i = 0; i < count; ++i) {
    int32_t page;
    if (!free_.empty()) {
      page = free_.back();
      free_.pop_back();
    } else {
      page = pages_.back().newer;
      Unkeep(page);
      reclaimed->push_back(page);
    }
    assert(pages_[page].num_holders == 0);
    pages_[page].num_holders = 1;
    pages_[page].keep = false;
    pages->push_back(page);
  }
  return true;
}

void PagePool::Hold(int32_t page) {
  assert(page >= 0 && page < num_pages());
  if (pages_[page].num_holders == 0) Unkeep(page);
  ++pages_[page].num_holders;
}

void PagePool::Release(std::vector<int32_t>* pages) {
  for (auto page = pages->rbegin(); page != pages->rend(); ++page) {
    assert(*page >= 0 && *page < num_pages() && pages_[*page].num_holders > 0);
    if (--pages_[*page].num_holders > 0) continue;
    if (pages_[*page].keep) {
      Keep(*page);
    } else {
      free_.push_back(*page);
    }
  }
  pages->clear();
}

void PagePool::SetKeep(int32_t page, bool keep) {
  assert(pages_[page].num_holders > 0 || pages_[page].keep);
  if (pages_[page].num_holders == 0 && !keep) {
    Unkeep(page);
    free_.push_back(page);
  }
  pages_[page].keep = keep;
}

void PagePool::Keep(int32_t page) {
  const int32_t ring = num_pages();
  pages_[page].newer = ring;
  pages_[page].older = pages_[ring].older;
  pages_[pages_[ring].older].newer = page;
  pages_[ring].older = page;
  ++num_kept_;
}

void PagePool::Unkeep(int32_t page) {
  assert(pages_[page].keep && num_kept_ > 0);
  pages_[pages_[page].older].newer = pages_[page].newer;
  pages_[pages_[page].newer].older = pages_[page].older;
  --num_kept_;
}

}  // namespace spotlight::engine
