// What kernels/sample.h is told of a step's samples, and whose counts and entries its slots hold.
//
// A sequence with penalties, biases or bans has a slot while it is among a step's samples, and keeps it until a newer
// one needs it: the one that was sampled least recently goes. What a slot holds is written when the sequence gets it;
// from then on the device counts its own tokens.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "engine/batch.h"
#include "kernels/sample.h"

namespace spotlight::engine {

// Host code. Engine thread only.
class SampleSlots {
 public:
  // A step has no more samples than there are slots.
  explicit SampleSlots(int32_t num_slots);

  // A slot whose counts and entries are to be written before the step samples.
  struct Fresh {
    int32_t slot = 0;
    const SampleRow* row = nullptr;
  };

  // Fills `rows` with the batch's samples, then its scored tokens; row i's output is i. INTERNAL: a row that validation
  // does not let pass.
  absl::Status Assign(const Batch& batch, std::vector<kernels::SampleRowParams>* rows, std::vector<Fresh>* fresh);

 private:
  struct Slot {
    uint64_t sequence_id = 0;
    int32_t next_output_index = -1;  // -1: nobody's
    int32_t num_biases = 0;
    uint64_t last_step = 0;
  };

  // The sequence's, when it holds what the row needs; else -1.
  int32_t Held(const SampleRow& row) const;
  absl::Status Take(const SampleRow& row, int32_t* index);

  std::vector<Slot> slots_;
  std::unordered_map<uint64_t, int32_t> slot_of_;  // by sequence id
  uint64_t num_steps_ = 0;
};

// A sequence's biases, then its bans.
std::vector<kernels::SampleEntry> SampleEntriesOf(const SampleRow& row);

}  // namespace spotlight::engine
