// Reads the safetensors goldens of tests/testdata/goldens, float64 included.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace spotlight::training::testing {

inline std::map<std::string, at::Tensor> ReadGolden(const std::string& name) {
  std::ifstream file("tests/testdata/goldens/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const char* header = bytes.data() + sizeof(header_bytes);
  const std::map<std::string, at::ScalarType> types = {{"F32", at::kFloat}, {"F64", at::kDouble}, {"I64", at::kLong}};
  std::map<std::string, at::Tensor> tensors;
  const auto entries = nlohmann::json::parse(header, header + header_bytes);
  for (const auto& [key, entry] : entries.items()) {
    char* data = bytes.data() + sizeof(header_bytes) + header_bytes + entry.at("data_offsets")[0].get<int64_t>();
    tensors[key] = at::from_blob(data, entry.at("shape").get<std::vector<int64_t>>(),
                                 at::TensorOptions(types.at(entry.at("dtype"))))
                       .clone();
  }
  return tensors;
}

}  // namespace spotlight::training::testing
