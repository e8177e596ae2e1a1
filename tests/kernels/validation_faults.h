// Tables of what an operation must refuse, and by what name.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels::testing {

template <class Params>
struct Fault {
  std::string message;  // what must follow "Operation: "
  std::function<void(Params*)> make;
};

// Each fault by itself, made of `good`, as if on `device`.
template <class Params>
void ExpectRefused(const Params& good, absl::Status (*operation)(const Params&),
                   const std::vector<Fault<Params>>& faults, DeviceKind device) {
  for (const auto& fault : faults) {
    Params bad = good;
    bad.execution.device = device;
    fault.make(&bad);
    const absl::Status status = operation(bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << fault.message << ": " << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(": " + fault.message));
  }
}

// The same on the device that `good` names, where it is accepted.
template <class Params>
void ExpectRefused(const Params& good, absl::Status (*operation)(const Params&),
                   const std::vector<Fault<Params>>& faults) {
  ASSERT_TRUE(operation(good).ok()) << operation(good);
  ExpectRefused(good, operation, faults, good.execution.device);
}

template <class Params, class T>
Fault<Params> Null(const std::string& field, T* Params::*member) {
  return {field + " is null", [member](Params* p) { p->*member = nullptr; }};
}

template <class Params, class T>
Fault<Params> Shifted(const std::string& field, T* Params::*member, size_t bytes) {
  return {field + " lies " + std::to_string(bytes), [member, bytes](Params* p) {
            p->*member = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p->*member) + bytes);
          }};
}

template <class Params, class T, class Value>
Fault<Params> Set(const std::string& field, T Params::*member, Value value) {
  return {field + " = " + std::to_string(value), [member, value](Params* p) { p->*member = static_cast<T>(value); }};
}

template <class Params>
std::vector<Fault<Params>> Concat(std::vector<Fault<Params>> a, const std::vector<Fault<Params>>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What all operations on heads and pages have in common.
template <class P>
std::vector<Fault<P>> CommonFaults() {
  return {{"execution.device = 9", [](P* p) { p->execution.device = static_cast<DeviceKind>(9); }},
          {"dtype = 3", [](P* p) { p->dtype = static_cast<DType>(3); }},
          {"dtype = 255", [](P* p) { p->dtype = static_cast<DType>(255); }},
          Set("num_kv_heads", &P::num_kv_heads, 0),
          Set("num_kv_heads", &P::num_kv_heads, -2),
          Set("num_kv_heads", &P::num_kv_heads, 1 << 20),
          Set("num_q_heads", &P::num_q_heads, 7),
          Set("num_q_heads", &P::num_q_heads, 34),
          Set("num_q_heads", &P::num_q_heads, 0),
          Set("num_q_heads", &P::num_q_heads, -6),
          Set("head_dim", &P::head_dim, 0),
          Set("head_dim", &P::head_dim, 96),
          Set("head_dim", &P::head_dim, 256),
          Set("head_dim", &P::head_dim, -64),
          Null("q", &P::q),
          Shifted("q", &P::q, 8),
          {"pages.kv is null", [](P* p) { p->pages.kv = nullptr; }},
          {"pages.kv lies 8", [](P* p) { p->pages.kv = static_cast<char*>(p->pages.kv) + 8; }},
          {"pages.num_pages = 0", [](P* p) { p->pages.num_pages = 0; }},
          {"pages.num_pages = -1", [](P* p) { p->pages.num_pages = -1; }}};
}

}  // namespace spotlight::kernels::testing
