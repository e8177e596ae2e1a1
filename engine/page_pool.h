// Which pages of the KV cache are free: integers only, the pages' memory is the model runner's.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/layout.h"

namespace spotlight::engine {

inline constexpr int32_t PagesFor(int32_t num_tokens) {
  return (num_tokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
}

// Every page is free or owned once. Thread-compatible.
class PagePool {
 public:
  explicit PagePool(int32_t num_pages);

  // Appends `count` pages to `pages`; takes nothing and returns false when fewer are free.
  bool Allocate(int32_t count, std::vector<int32_t>* pages);
  // Takes all of `pages` back and clears it. They must have come from this pool.
  void Free(std::vector<int32_t>* pages);

  int32_t num_pages() const { return static_cast<int32_t>(owned_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }

 private:
  std::vector<int32_t> free_;  // a stack: the page freed last, likeliest in cache, is used first
  std::vector<bool> owned_;
};

}  // namespace spotlight::engine
