#include "engine/ops/prefill_blocks.h"

#include <algorithm>

namespace spotlight::engine {
namespace {

// unit * the largest power of two that is at most `length`; length >= unit.
int64_t LargestBlock(int64_t unit, int64_t length) {
  int64_t block = unit;
  while (2 * block <= length) block *= 2;
  return block;
}

bool IsBlockOf(int64_t unit, int64_t max, int64_t length) {
  return length >= unit && length <= max && LargestBlock(unit, length) == length;
}

}  // namespace

bool PrefillBlocks::IsBlock(int64_t queries, int64_t keys) const {
  return IsBlockOf(unit, max_queries, queries) && IsBlockOf(unit, std::max(max_queries, max_keys), keys);
}

std::vector<PrefillPiece> SplitPrefill(int64_t past, int64_t context, const PrefillBlocks& blocks) {
  std::vector<PrefillPiece> pieces;
  for (int64_t position = past; position < context;) {
    const int64_t left = context - position, beyond = position % blocks.unit;
    PrefillPiece piece;
    piece.begin = position;
    const bool whole = beyond == 0 && left >= blocks.unit;
    piece.end = position + (whole ? LargestBlock(blocks.unit, std::min(left, blocks.max_queries))
                                  : std::min(left, blocks.unit - beyond));
    int64_t begin = 0;
    while (begin < position - beyond) {
      const int64_t keys_left = std::min(position - beyond - begin, blocks.max_keys);
      const int64_t keys = whole ? LargestBlock(blocks.unit, keys_left) : keys_left;
      piece.parts.push_back({begin, begin + keys});
      begin += keys;
    }
    piece.parts.push_back({begin, piece.end});
    position = piece.end;
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

std::vector<PrefillBlock> BlocksOfPrompts(int64_t max_tokens, int64_t max_context, const PrefillBlocks& blocks) {
  const int64_t longest_chunk = std::min({max_tokens, max_context, blocks.max_queries});
  if (longest_chunk < blocks.unit) return {};
  const int64_t longest = LargestBlock(blocks.unit, longest_chunk);
  std::vector<PrefillBlock> found, others;
  for (int64_t queries = longest; queries >= blocks.unit; queries /= 2) found.push_back({queries, 0});
  for (int64_t past = blocks.unit; past <= blocks.max_keys; past *= 2) {
    for (int64_t queries = longest; queries >= blocks.unit; queries /= 2) {
      if (past + queries > max_context) continue;
      // A chunk from a multiple of `longest` on is cut into falling powers of two: what is before one is longer.
      const bool from_the_beginning = past > queries || past >= longest;
      (from_the_beginning ? found : others).push_back({queries, past});
    }
  }
  found.insert(found.end(), others.begin(), others.end());
  return found;
}

}  // namespace spotlight::engine
