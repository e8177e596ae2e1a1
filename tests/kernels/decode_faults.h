// Faults that the operations on rows of cached tokens share. They are made of the params of a DecodeCase of one row of
// 300 tokens, whose page table has room for six pages.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/layout.h"
#include "tests/kernels/arena.h"
#include "tests/kernels/validation_faults.h"

namespace spotlight::kernels::testing {

// Never read.
inline const float* ScalesAt(size_t offset) {
  return reinterpret_cast<const float*>(uintptr_t{4096} + offset);
}

template <class P>
std::vector<Fault<P>> RowFaults() {
  return Concat<P>(CommonFaults<P>(),
                   {Set("num_rows", &P::num_rows, -1),
                    {"softmax_scale = nan", [](P* p) { p->softmax_scale = std::nanf(""); }},
                    {"softmax_scale = inf", [](P* p) { p->softmax_scale = INFINITY; }},
                    {"softmax_scale = 0", [](P* p) { p->softmax_scale = 0; }},
                    Null("page_table", &P::page_table),
                    Shifted("page_table", &P::page_table, 2),
                    Set("max_pages", &P::max_pages, 0),
                    Set("max_pages", &P::max_pages, -3),
                    Null("context_len", &P::context_len),
                    Shifted("context_len", &P::context_len, 1),
                    Set("max_context", &P::max_context, 0),
                    Set("max_context", &P::max_context, -1),
                    Set("max_context", &P::max_context, 6 * kPageTokens + 1),
                    {"pages.kv_scale lies 8", [](P* p) { p->pages.kv_scale = const_cast<float*>(ScalesAt(8)); }},
                    {"dtype = 2, must be bf16", [](P* p) {
                       p->dtype = DType::kF16;
                       p->pages.kv_scale = const_cast<float*>(ScalesAt(0));
                     }}});
}

template <class P>
std::vector<Fault<P>> WorkspaceFaults() {
  return {Null("workspace", &P::workspace),
          Shifted("workspace", &P::workspace, 128),
          Set("workspace_bytes", &P::workspace_bytes, 0),
          {"workspace_bytes = ", [](P* p) { p->workspace_bytes -= 1; }}};
}

// Lengths and page numbers, which only the CPU sees: tokens past max_context, pages that are not there.
template <class P>
std::vector<Fault<P>> ContentFaults(Arena* arena) {
  auto* long_row = arena->Allocate<int32_t>(1);
  auto* negative_row = arena->Allocate<int32_t>(1);
  auto* negative_page = arena->Allocate<int32_t>(16);
  auto* far_page = arena->Allocate<int32_t>(16);
  *long_row = 301;
  *negative_row = -1;
  negative_page[2] = -5;
  far_page[4] = 1 << 20;
  return {{"context_len[0] = 301", [=](P* p) { p->context_len = long_row; }},
          {"context_len[0] = -1", [=](P* p) { p->context_len = negative_row; }},
          {"page_table[0][2] = -5", [=](P* p) { p->page_table = negative_page; }},
          {"page_table[0][4] = 1048576", [=](P* p) { p->page_table = far_page; }}};
}

}  // namespace spotlight::kernels::testing
