// The cached tokens of one row: which pages hold them.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/page_pool.h"
#include "kernels/layout.h"

namespace spotlight::engine {

// Thread-compatible.
class RowPages {
 public:
  // Tokens [0, context_len) in `pages`, in order.
  void Assign(const int32_t* pages, int32_t context_len) {
    Clear();
    context_len_ = context_len;
    pages_.assign(pages, pages + PagesFor(context_len));
    for (size_t i = 0; i < pages_.size(); ++i) {
      if (pages_[i] >= static_cast<int32_t>(places_.size())) places_.resize(pages_[i] + 1, -1);
      places_[pages_[i]] = static_cast<int32_t>(i);
    }
  }
  void Clear() {
    for (const int32_t page : pages_) places_[page] = -1;
    pages_.clear();
  }
  bool empty() const { return pages_.empty(); }

  // Whether a step with these slots (Batch::slots) writes over such a token. The row's own sequence writes behind them.
  bool AreWrittenBy(const std::vector<int64_t>& slots) const {
    int64_t last_page = -1;
    for (const int64_t slot : slots) {
      const int64_t page = slot / kernels::kPageTokens;
      // Tokens of a page follow one another: the first of them decides.
      if (page == last_page || slot < 0 || page >= static_cast<int64_t>(places_.size())) continue;
      last_page = page;
      const int64_t position = int64_t{places_[page]} * kernels::kPageTokens + slot % kernels::kPageTokens;
      if (places_[page] >= 0 && position < context_len_) return true;
    }
    return false;
  }

 private:
  int32_t context_len_ = 0;
  std::vector<int32_t> pages_;
  std::vector<int32_t> places_;  // by page: where in the row it is; -1: nowhere
};

}  // namespace spotlight::engine
