// Scoring on the CPU beside a plain read of the same code bytes with the same threads: the share of the memory's
// bandwidth that XNOR and popcount reach.
#pragma once

#include <string>
#include <vector>

namespace spotlight::benchmarks {

struct CpuScoringOptions {
  int num_samples = 40;
  int num_threads = 0;  // of the most threads measured; 0: the machine's. One thread is always measured.
  bool quick = false;   // a cache's worth of codes
};

struct CpuScoringRow {
  std::string level;   // instruction set
  int hash_words = 0;  // W of the pass: 1 is the prefilter's first pass
  int num_threads = 0;
  double score_gb_per_s = 0, read_gb_per_s = 0;  // of the quickest calls: the machine may have other work

  double ratio() const { return score_gb_per_s / read_gb_per_s; }
};

// Every instruction set of this machine. Fails where a selection differs from the reference's. Prints the table.
std::vector<CpuScoringRow> MeasureCpuScoring(const CpuScoringOptions& options);

}  // namespace spotlight::benchmarks
