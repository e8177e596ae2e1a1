// What was measured, as tables on stdout and as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "benchmarks/kernels/cpu_scoring.h"
#include "benchmarks/kernels/timing.h"

namespace spotlight::benchmarks {

// The reads and exchanges of sparse_attention, encode_and_append beside them: what bounds it.
inline constexpr char kSkeletonAttention[] = "skeleton_attention";

struct Row {
  std::string op, shape;
  int32_t batch = 0;
  int32_t context = 0;  // tokens of each sequence; of the chunk for a prefill operation
  bool prefilter = false, clustered = false;
  Timing time;
  double bytes = 0;     // that the operation must read
  double floor_us = 0;  // those bytes at the bandwidth of a plain read of 4 GB; 0: not a memory-bound operation
  Timing read;          // a plain read of as many bytes, measured like the operation; 0: not measured
  Timing anchor;        // cuDNN's full attention over the same tokens; 0: none
  double layer_us = 0;  // of a prefill operation: what else the layer does for the chunk
  double peer_us = 0;   // the public kernels, which no CUDA graph can hold; 0: not measured
};

struct Report {
  std::string device, driver, cuda, torch, cudnn, commit, peer_commit;
  double read_gb_per_s = 0;
  Timing empty_launch, two_empty_launches;
  int num_samples = 0;
  std::vector<Row> rows;
  std::vector<CpuScoringRow> cpu_scoring;
};

void PrintHeader(const Report& report);
void PrintTable(const std::string& title, const std::vector<Row>& rows);
// The smallest context of each shape and batch from which on the prefilter is quicker.
void PrintCrossover(const std::vector<Row>& rows);

// The project's bars, and what was reached.
void PrintTargets(const std::vector<Row>& rows);

std::string ToJson(const Report& report);

}  // namespace spotlight::benchmarks
