// Workers on the CPU: the meeting of threads is the same on GPUs, where NCCL adds up.
#include "training/data_parallel.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace spotlight::training {
namespace {

template <typename Work>
void OnEveryWorker(DataParallel& group, const Work& work) {
  std::vector<std::thread> threads;
  for (int32_t rank = 0; rank < group.num_workers(); ++rank) threads.emplace_back([&work, rank] { work(rank); });
  for (std::thread& thread : threads) thread.join();
}

TEST(DataParallelTest, GradientsBecomeTheirMeanOnEveryWorker) {
  DataParallel group({3, at::Device(at::kCPU)});
  std::atomic<int> right{0};
  OnEveryWorker(group, [&](int32_t rank) {
    for (int round = 0; round < 50; ++round) {
      std::vector<at::Tensor> gradients = {at::full({2, 3}, rank + round, at::kFloat), at::ones({4}) * 6 * rank};
      group.AllReduceMean(rank, gradients);
      right +=
          at::allclose(gradients[0], at::ones({2, 3}) * (1 + round)) && at::allclose(gradients[1], at::ones({4}) * 6);
    }
  });
  EXPECT_EQ(right, 150);
}

TEST(DataParallelTest, OneWorkerChangesNothing) {
  DataParallel group({at::Device(at::kCPU)});
  std::vector<at::Tensor> gradients = {at::ones({2})};
  group.AllReduceMean(0, gradients);
  EXPECT_TRUE(at::allclose(gradients[0], at::ones({2})));
  EXPECT_TRUE(group.Agree(true));
  EXPECT_FALSE(group.Agree(false));
  EXPECT_TRUE(group.Agree(true));
}

TEST(DataParallelTest, AllStopTogether) {
  DataParallel group({4, at::Device(at::kCPU)});
  std::atomic<int> rounds{0};
  OnEveryWorker(group, [&](int32_t rank) {
    for (int round = 0; group.Agree(rank != 2 || round < 20); ++round) ++rounds;
  });
  EXPECT_EQ(rounds, 4 * 20);
}

TEST(DataParallelTest, NobodyWaitsForAWorkerThatFailed) {
  DataParallel group({3, at::Device(at::kCPU)});
  std::atomic<int> left{0};
  OnEveryWorker(group, [&](int32_t rank) {
    std::vector<at::Tensor> gradients = {at::ones({2})};
    group.AllReduceMean(rank, gradients);
    if (rank == 1) return group.Fail();
    try {
      group.AllReduceMean(rank, gradients);
    } catch (const OtherWorkerFailed&) {
      ++left;
    }
    EXPECT_FALSE(group.Agree(true));
  });
  EXPECT_EQ(left, 2);
}

}  // namespace
}  // namespace spotlight::training
