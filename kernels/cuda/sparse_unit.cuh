// One warp's share of a (row, KV head) in sparse_decode, and its scores.
#pragma once

#include <cstdint>

#include "kernels/cuda/code_stream.cuh"
#include "kernels/cuda/score_tile.cuh"
#include "kernels/cuda/sparse_args.cuh"
#include "kernels/cuda/threshold.cuh"
#include "kernels/cuda/units.cuh"
#include "kernels/token_list.h"

namespace spotlight::kernels::cuda {

// The units of one (row, KV head) that one block owns, and what is known of their row.
struct Segment {
  int32_t row, head, row_head;
  int32_t first_unit, num_units;  // of the (row, head), in the launch
  int32_t begin, end;             // the block's share, in the launch
  int32_t context_len, num_pages;
  int32_t unit_pages, extra_pages;  // every unit has unit_pages, the first extra_pages one more
  Competition competition;
  bool competes;  // false: the row attends to everything
  Threshold threshold;

  // Candidates that the competition for `factor` times K keeps.
  __device__ int32_t Wanted(int32_t factor) const {
    return static_cast<int32_t>(min(int64_t{factor} * competition.num_select, int64_t{competition.count}));
  }
};

// The segment of `row_head` within the block's units [block_begin, block_end).
__device__ inline Segment SegmentOf(const SparseArgs& args, const UnitMap& map, int32_t row_head, int32_t block_begin,
                                    int32_t block_end) {
  Segment segment;
  segment.row_head = row_head;
  segment.row = row_head / args.num_kv_heads;
  segment.head = row_head % args.num_kv_heads;
  segment.num_units = map.UnitsOf(segment.row);
  segment.first_unit = map.HeadBegin(segment.row, segment.head);
  segment.begin = max(block_begin, segment.first_unit);
  segment.end = min(block_end, segment.first_unit + segment.num_units);
  segment.context_len = args.context_len[segment.row];
  segment.num_pages = NumPages(segment.context_len);
  segment.unit_pages = segment.num_pages / segment.num_units;
  segment.extra_pages = segment.num_pages % segment.num_units;
  segment.competition =
      CompetitionOf(segment.context_len, args.num_select[segment.row], args.sink_tokens, args.recent_tokens);
  segment.competes = segment.competition.num_select > 0 && segment.competition.num_select < segment.competition.count;
  segment.threshold = {-1, 0, 0};
  return segment;
}

// Stored scores are raw + 1; 0: does not compete.
struct Unit {
  int32_t index;      // of the (row, KV head)'s num_units
  int32_t num_pages;  // pages index, index + page_step, ...
  int32_t page_step;  // num_units
  // In shared memory while there is room: scores [num_pages, P]; and for each page and eight neighbouring tokens, the
  // bits of those over the threshold (low byte) and of those equal to it.
  uint16_t* scores;
  uint16_t* masks;
  const int32_t* pages;  // page i of the unit is pages[i * page_stride]
  int32_t page_stride;
  int32_t* resident_pages;  // where the pages go, in shared memory; null: they stay in the page table

  __device__ int32_t PageOf(int32_t i) const { return pages[int64_t{i} * page_stride]; }
  __device__ int32_t LogicalPage(int32_t i) const { return index + i * page_step; }
};

inline constexpr int kOctetsPerPage = kPageTokens / 8;
// Shared memory of a unit's scores, and of its masks and page numbers. The latter outlive the former.
__host__ __device__ constexpr int32_t ScoreBytes(int32_t num_pages) {
  return num_pages * kPageTokens * 2;
}
__host__ __device__ constexpr int32_t MaskBytes(int32_t num_pages) {
  return (num_pages * (kOctetsPerPage * 2 + 4) + 15) / 16 * 16;
}

// Walks a warp's units, always in the same order: that places them alike in every stage.
class UnitCursor {
 public:
  // masks and scores: shared memory of the warp.
  __device__ UnitCursor(const SparseArgs& args, char* masks, char* scores)
      : args_(args), masks_(masks), scores_(scores) {}

  // scored: the unit's pages have been copied.
  __device__ Unit At(const Segment& segment, int32_t unit_of_launch, bool scored) {
    Unit unit;
    unit.index = unit_of_launch - segment.first_unit;
    unit.page_step = segment.num_units;
    unit.num_pages = segment.unit_pages + (unit.index < segment.extra_pages);
    unit.resident_pages = nullptr;
    unit.pages = args_.page_table + int64_t{segment.row} * args_.max_pages + unit.index;
    unit.page_stride = segment.num_units;
    unit.scores = nullptr;
    unit.masks = nullptr;
    if (!segment.competes) return unit;
    const int32_t score_bytes = ScoreBytes(unit.num_pages), mask_bytes = MaskBytes(unit.num_pages);
    if (score_bytes_ + score_bytes <= args_.score_bytes && mask_bytes_ + mask_bytes <= args_.mask_bytes) {
      unit.scores = reinterpret_cast<uint16_t*>(scores_ + score_bytes_);
      unit.masks = reinterpret_cast<uint16_t*>(masks_ + mask_bytes_);
      unit.resident_pages = reinterpret_cast<int32_t*>(unit.masks + unit.num_pages * kOctetsPerPage);
      score_bytes_ += score_bytes;
      mask_bytes_ += mask_bytes;
      if (scored) {
        unit.pages = unit.resident_pages;
        unit.page_stride = 1;
      }
    } else {
      // Unit by unit: each one's pages side by side.
      const int32_t first = unit.index * segment.unit_pages + min(unit.index, segment.extra_pages);
      const int64_t page = int64_t{segment.row_head} * args_.row_pages + first;
      unit.scores = args_.scores + page * kPageTokens;
      unit.masks = args_.masks + page * kOctetsPerPage;
    }
    return unit;
  }

 private:
  const SparseArgs& args_;
  char *const masks_, *const scores_;
  int32_t score_bytes_ = 0, mask_bytes_ = 0;
};

// Passes over a unit's scores go by groups of four pages: each lane has one octet, eight neighbouring tokens.
inline constexpr int kGroupPages = 4;

__device__ inline int32_t NumGroups(const Unit& unit) {
  return (unit.num_pages + kGroupPages - 1) / kGroupPages;
}
// This lane's page of a group, of its octet the first slot.
__device__ inline int32_t GroupPage(int32_t group) {
  return group * kGroupPages + static_cast<int32_t>(threadIdx.x % 32 / kOctetsPerPage);
}
__device__ inline int32_t OctetSlot() {
  return static_cast<int32_t>(threadIdx.x % kOctetsPerPage) * 8;
}
// A mask's bits 0 to 3 are an octet's even tokens, 4 to 7 its odd ones: as they come from 32-bit words of two scores.
__device__ inline int32_t TokenOfBit(int bit) {
  return bit % 4 * 2 + bit / 4;
}
// The mask of those bits that follow the order of tokens.
__device__ inline uint32_t MaskOfTokens(uint32_t bits) {
  uint32_t mask = 0;
#pragma unroll
  for (int bit = 0; bit < 8; ++bit) mask |= (bits >> TokenOfBit(bit) & 1) << bit;
  return mask;
}

// Bits of the scores of `octet` that are at least `least`, 0 < least < 2^15.
__device__ inline uint32_t AtLeast(const uint4& octet, uint32_t least) {
  const uint32_t both = least * 0x00010001u;
  // Subtraction leaves a half's top bit set where nothing is borrowed.
  const uint32_t a = (octet.x | 0x80008000u) - both, b = (octet.y | 0x80008000u) - both;
  const uint32_t c = (octet.z | 0x80008000u) - both, d = (octet.w | 0x80008000u) - both;
  const uint32_t bits =
      (a >> 15 & 0x00010001u) | (b >> 14 & 0x00020002u) | (c >> 13 & 0x00040004u) | (d >> 12 & 0x00080008u);
  return (bits | bits >> 12) & 0xff;
}

// Writes the unit's masks for a threshold, and how many scores of each page equal it. With `among_chosen` only tokens
// whose masks say over take part.
__device__ inline void CompareWithThreshold(const Unit& unit, int32_t raw_threshold, bool among_chosen, uint8_t* ties) {
  const int lane = threadIdx.x % 32;
  const uint32_t threshold = raw_threshold + 1;
#pragma unroll 4
  for (int32_t group = 0; group < NumGroups(unit); ++group) {
    const int32_t page = GroupPage(group);
    const bool present = page < unit.num_pages;
    uint4 octet = make_uint4(0, 0, 0, 0);
    if (present) octet = *reinterpret_cast<const uint4*>(unit.scores + group * kGroupPages * kPageTokens + lane * 8);
    uint16_t* const mask = unit.masks + group * 32 + lane;
    const uint32_t allowed = among_chosen && present ? *mask : 0xffu;
    const uint32_t over = AtLeast(octet, threshold + 1) & allowed;
    const uint32_t equal = AtLeast(octet, threshold) & ~over & allowed;
    if (present) *mask = static_cast<uint16_t>(over | equal << 8);
    int32_t count = __popc(equal);
    if (__any_sync(~0u, count != 0)) {
      for (int offset = 1; offset < kOctetsPerPage; offset *= 2) {
        count += __shfl_xor_sync(~0u, count, offset, kOctetsPerPage);
      }
    }
    if (present && lane % kOctetsPerPage == 0) ties[unit.LogicalPage(page)] = static_cast<uint8_t>(count);
  }
  __syncwarp();
}

// Which of the tied tokens `equal` of this lane's octet the cut lets through. Every lane must call.
__device__ inline uint32_t TiesWithin(uint32_t equal, const Cut& cut, int32_t logical_page) {
  const int32_t allowed = cut.TiesAllowed(logical_page);
  if (allowed <= 0) equal = 0;
  if (__any_sync(~0u, equal != 0 && allowed < kPageTokens)) {  // the page where the ties end
    int32_t before = __popc(equal);
    for (int offset = 1; offset < kOctetsPerPage; offset *= 2) {
      const int32_t below = __shfl_up_sync(~0u, before, offset, kOctetsPerPage);
      if (static_cast<int>(threadIdx.x % kOctetsPerPage) >= offset) before += below;
    }
    before -= __popc(equal);
    uint32_t kept = 0;
#pragma unroll 1
    for (int token = 0; token < 8; ++token) {
      const uint32_t bit = 1u << (token / 2 + token % 2 * 4);
      if ((equal & bit) != 0 && before++ < allowed) kept |= bit;
    }
    equal = kept;
  }
  return equal;
}

// Scores a unit's candidates by kWords words of their codes, and counts them. The stream has begun with this unit.
// histogram has one bin more than there are scores, for tokens that do not compete.
template <int kWords>
__device__ void ScorePages(const Unit& unit, const Competition competition, const PlaneOperand<kWords>& planes,
                           CodeStream<kWords>* stream, int32_t* histogram, int32_t num_bins) {
  const int lane = threadIdx.x % 32;
  const int32_t num_pages = unit.num_pages, part_pages = stream->pages_per_part();
  const int32_t step = unit.page_step * kPageTokens;
  int part = 0;
#pragma unroll 1
  for (int32_t begin = 0; begin < num_pages; begin += part_pages) {
    const Code<kWords>* codes = stream->Wait(part) + lane;
    const int32_t count = min(part_pages, num_pages - begin);
    uint16_t* scores = unit.scores + begin * kPageTokens + lane;
    // Where this lane's first key of a page stands among the candidates.
    int32_t place = unit.LogicalPage(begin) * kPageTokens + lane - competition.begin;
#pragma unroll(kWords == 1 ? 4 : 2)
    for (int32_t i = 0; i < count; ++i) {
      const Code<kWords> keys[2] = {codes[i * kPageTokens], codes[i * kPageTokens + 32]};
      int32_t raw[2];
      planes.Score(keys, raw);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const bool candidate =
            static_cast<uint32_t>(place + i * step + 32 * k) < static_cast<uint32_t>(competition.count);
        scores[i * kPageTokens + 32 * k] = static_cast<uint16_t>(candidate ? raw[k] + 1 : 0);
        atomicAdd(histogram + (candidate ? raw[k] : num_bins), 1);
      }
    }
    stream->Fill(part);
    part = part + 1 == CodeStream<kWords>::kStages ? 0 : part + 1;
  }
  __syncwarp();
}

// A warp's first-in first-out list of int32 in shared memory. Every lane must call everything.
class WarpQueue {
 public:
  __device__ explicit WarpQueue(int32_t* entries) : entries_(entries) {}
  __device__ int32_t size() const { return tail_ - head_; }
  __device__ int32_t room() const { return kQueueEntries - size(); }
  __device__ int32_t operator[](int32_t i) const { return entries_[(head_ + i) % kQueueEntries]; }
  // Each lane appends entry(b) for every bit b that is set, after those of the lanes before it; at most room().
  template <class Entry>
  __device__ void AppendBits(uint32_t bits, const Entry& entry) {
    const int32_t count = __popc(bits), inclusive = WarpInclusiveSum(count);
    int32_t place = tail_ + inclusive - count;
#pragma unroll 1
    for (; bits != 0; bits &= bits - 1, ++place) entries_[place % kQueueEntries] = entry(__ffs(bits) - 1);
    tail_ += __shfl_sync(~0u, inclusive, 31);
    __syncwarp();
  }
  __device__ void Drop(int32_t count) {
    __syncwarp();
    head_ += count;
  }

 private:
  int32_t* const entries_;
  int32_t head_ = 0, tail_ = 0;
};

// The tied tokens of a unit until their cut is known: page * P + slot of the unit, kMaxTies at most.
inline constexpr int kMaxTies = 64;
class TieList {
 public:
  __device__ explicit TieList(uint16_t* entries) : entries_(entries) {}
  __device__ bool overflowed() const { return size_ > kMaxTies; }

  template <class Local>
  __device__ void AppendBits(uint32_t bits, const Local& local) {
    const int32_t count = __popc(bits), inclusive = WarpInclusiveSum(count);
    int32_t place = size_ + inclusive - count;
#pragma unroll 1
    for (; bits != 0; bits &= bits - 1, ++place) {
      if (place < kMaxTies) entries_[place] = static_cast<uint16_t>(local(__ffs(bits) - 1));
    }
    size_ += __shfl_sync(~0u, inclusive, 31);
    __syncwarp();
  }

  // Entry `first` + lane; -1: there is none.
  __device__ int32_t Entry(int first) const {
    const int i = first + static_cast<int>(threadIdx.x % 32);
    return i < size_ ? entries_[i] : -1;
  }
  // The same if it is within the cut, else -1.
  __device__ int32_t Chosen(int first, const Unit& unit, const Cut& cut) const {
    const int32_t entry = Entry(first);
    if (entry < 0) return -1;
    const int32_t allowed = cut.TiesAllowed(unit.LogicalPage(entry / kPageTokens));
    if (allowed >= kPageTokens) return entry;
    int32_t before = 0;
#pragma unroll 1
    for (int other = 0; allowed > 0 && other < size_; ++other) {
      before += entries_[other] < entry && entries_[other] / kPageTokens == entry / kPageTokens;
    }
    return before < allowed ? entry : -1;
  }
  __device__ int32_t size() const {
    return size_;
  }

 private:
  uint16_t* const entries_;
  int32_t size_ = 0;
};

// Groups of pages whose chosen tokens are gathered together.
inline constexpr int kGroupsAtOnce = 4;

// How many of kGroupsAtOnce groups of pages fit with their chosen tokens: all or one, which always does. Every lane
// must call.
__device__ inline int GroupsThatFit(uint32_t chosen, int32_t room) {
  return __reduce_add_sync(~0u, __popc(chosen)) <= room ? kGroupsAtOnce : 1;
}

// The chosen tokens of kGroupsAtOnce groups of pages by their masks: bit 8g + b is bit b of this lane's octet of group
// `first` + g. over: those over the threshold, ties: those that tie and are within the cut. *tied: all that tie. Every
// lane must call.
__device__ inline uint32_t ChosenOfGroups(const Unit& unit, int32_t first, bool over, bool ties, const Cut& cut,
                                          uint32_t* tied) {
  uint32_t chosen = 0;
  *tied = 0;
#pragma unroll
  for (int g = 0; g < kGroupsAtOnce; ++g) {
    const int32_t page = GroupPage(first + g);
    const uint32_t mask = page < unit.num_pages ? unit.masks[(first + g) * 32 + threadIdx.x % 32] : 0u;
    uint32_t bits = over ? mask & 0xff : 0u;
    if (ties && __any_sync(~0u, mask > 0xff)) bits |= TiesWithin(mask >> 8, cut, unit.LogicalPage(page));
    chosen |= bits << 8 * g;
    *tied |= mask >> 8 << 8 * g;
  }
  return chosen;
}

// Page of the unit and slot, page * P + slot, of a bit of ChosenOfGroups.
__device__ inline int32_t LocalTokenOf(int32_t first, int bit) {
  return GroupPage(first + bit / 8) * kPageTokens + OctetSlot() + TokenOfBit(bit % 8);
}

// Scores in full what the prefilter's cut leaves of a unit, in place. The masks say afterwards who that is.
template <int kWords>
__device__ void RescorePages(const SparseArgs& args, const Unit& unit, int32_t head, const PlaneOperand<kWords>& planes,
                             const Cut& cut, int32_t* queue_entries, int32_t* histogram) {
  constexpr int kSets = kWords == 8 ? 1 : 2;  // of 64 keys whose codes are on their way together
  const int lane = threadIdx.x % 32;
  WarpQueue queue(queue_entries);
  int32_t group = 0;
#pragma unroll 1
  while (true) {
#pragma unroll 1
    while (group < NumGroups(unit) && queue.size() < kSets * kPageTokens) {
      uint32_t tied;
      uint32_t chosen = ChosenOfGroups(unit, group, true, true, cut, &tied);
      const int fitting = GroupsThatFit(chosen, queue.room());
      if (fitting == 1) chosen &= 0xff;
#pragma unroll
      for (int g = 0; g < kGroupsAtOnce; ++g) {
        if (g >= fitting || GroupPage(group + g) >= unit.num_pages) continue;
        unit.masks[(group + g) * 32 + lane] = static_cast<uint16_t>(chosen >> 8 * g & 0xff);
      }
      queue.AppendBits(chosen, [&](int bit) { return LocalTokenOf(group, bit); });
      group += fitting;
    }
    if (queue.size() == 0) break;
    const int32_t count = min(queue.size(), kSets * kPageTokens);
    Code<kWords> keys[kSets][2];
#pragma unroll
    for (int i = 0; i < 2 * kSets; ++i) {
      const int32_t local = queue[min(i * 32 + lane, count - 1)];
      const int64_t entry =
          (int64_t{unit.PageOf(local / kPageTokens)} * args.num_kv_heads + head) * kPageTokens + local % kPageTokens;
      keys[i / 2][i % 2] = *reinterpret_cast<const Code<kWords>*>(args.codes + entry * kWords);
    }
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
      int32_t raw[2];
      planes.Score(keys[set], raw);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int32_t i = (2 * set + k) * 32 + lane;
        if (i >= count) continue;
        unit.scores[queue[i]] = static_cast<uint16_t>(raw[k] + 1);
        atomicAdd(histogram + raw[k], 1);
      }
    }
    queue.Drop(count);
  }
  __syncwarp();
}

}  // namespace spotlight::kernels::cuda
