// The public Spotlight kernels (wenhaoli-xmu/spotlight), built and timed by peer_benchmark.py in Python's PyTorch.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace spotlight::benchmarks {

class Peer {
 public:
  // Starts to compile the kernels of the checkout `folder` in the background. Nothing when `folder` is empty.
  Peer(std::string folder, std::string python);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // Waits for the compiler, then times hash, search, top-k with gather, and attention of one sequence: us, by context.
  // The device must be idle.
  std::map<int32_t, double> Measure(const std::vector<int32_t>& contexts, int num_samples);
  const std::string& commit() const { return commit_; }

 private:
  std::string Command(const std::string& arguments) const;

  const std::string folder_, python_;
  std::string commit_;
  std::FILE* build_ = nullptr;
};

}  // namespace spotlight::benchmarks
