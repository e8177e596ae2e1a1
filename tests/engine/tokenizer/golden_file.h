// Files under tests/testdata, read by tests that run in the workspace's root.
#pragma once

#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {

inline std::string TestDataPath(const std::string& name) {
  return "tests/testdata/" + name;
}

inline std::string ReadTestData(const std::string& name) {
  std::ifstream file(TestDataPath(name), std::ios::binary);
  EXPECT_TRUE(file) << name;
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

// The cases of goldens/`name`.json; a test over an empty list would pass for nothing.
inline nlohmann::json ReadGoldenCases(const std::string& name) {
  nlohmann::json golden = nlohmann::json::parse(ReadTestData("goldens/" + name + ".json"), nullptr, false);
  EXPECT_TRUE(golden.is_object() && !golden["cases"].empty()) << name;
  return golden["cases"];
}

}  // namespace spotlight::engine
