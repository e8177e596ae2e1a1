// How a prompt chunk's attention is cut into calls of a library.
//
// cuDNN's attention is the fastest there is for long prompts, but LibTorch has it build a plan for every pair of query
// and key lengths (tenths of a second, kept for ever). So it is called with a few lengths only, powers of two of a
// unit. Whatever is left over at either end of a chunk, less than a unit, goes to flash attention, which takes any
// length.
#pragma once

#include <cstdint>
#include <vector>

namespace spotlight::engine {

struct PrefillBlocks {
  int64_t unit = 1024;         // the shortest cuDNN call
  int64_t max_queries = 8192;  // unit * a power of two
  int64_t max_keys = 65536;    // likewise: bounds the scratch that keys and values are gathered to

  // Whether a call of so many queries on so many keys is one of cuDNN's.
  bool IsBlock(int64_t queries, int64_t keys) const;
};

// Queries at positions [begin, end) of a sequence, and the keys that they attend to, part by part. The last part ends
// with the queries' own keys and is causal: the query at position p sees keys up to p. It begins with the queries or,
// where these do not begin at a unit, at the unit before them. All others are seen by every query, and are whole units.
struct PrefillPiece {
  struct Keys {
    int64_t begin = 0, end = 0;
  };
  int64_t begin = 0, end = 0;
  std::vector<Keys> parts;
};

// Positions [past, context) of a sequence, past < context.
std::vector<PrefillPiece> SplitPrefill(int64_t past, int64_t context, const PrefillBlocks& blocks);

// A call of `queries` queries at positions from `past` on: on the block of `past` keys before them and, causally, on
// themselves. past 0: on themselves alone.
struct PrefillBlock {
  int64_t queries = 0, past = 0;
};

// With one block of each kind every call of the library has been made that chunks of up to `max_tokens` tokens, in
// contexts of up to `max_context`, can make of their blocks. First what prompts meet that are computed from their
// beginning, in chunks of max_tokens, the shorter ones first; then what others meet besides.
std::vector<PrefillBlock> BlocksOfPrompts(int64_t max_tokens, int64_t max_context, const PrefillBlocks& blocks);

}  // namespace spotlight::engine
