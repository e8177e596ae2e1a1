#include "engine/engine_thread.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>
#include <vector>

namespace spotlight::engine {
namespace {

TEST(EngineThreadTest, WorkRunsOnOneThreadInOrder) {
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  {
    EngineThread thread;
    for (int i = 0; i < 100; ++i) {
      const auto work = [&, i] {
        order.push_back(i);
        threads.push_back(std::this_thread::get_id());
      };
      if (i % 3 != 0) {
        thread.Start(work);
        continue;
      }
      thread.Run(work);
      EXPECT_EQ(order.size(), static_cast<size_t>(i) + 1);
    }
  }
  ASSERT_EQ(order.size(), 100u) << "all work has run when the thread is gone";
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(order[i], i);
    EXPECT_EQ(threads[i], threads[0]);
    EXPECT_NE(threads[i], std::this_thread::get_id());
  }
}

TEST(EngineThreadTest, WhatWorkThrowsIsThrownWhereItIsWaitedFor) {
  EngineThread thread;
  EXPECT_THROW(thread.Run([] { throw std::runtime_error("no memory"); }), std::runtime_error);
  bool ran = false;
  thread.Run([&] { ran = true; });
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace spotlight::engine
