// The same for the operations that do not attend.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "kernels/encode_and_append.h"
#include "kernels/pointwise.h"
#include "tests/kernels/arena.h"
#include "tests/kernels/validation_faults.h"

namespace spotlight::kernels::testing {
namespace {

using E = EncodeAndAppendParams;

// A hash like `good` but for one field.
Fault<E> HashFault(const std::string& message, const HashWeights& good, const std::function<void(HashWeights*)>& make) {
  auto bad = std::make_shared<HashWeights>(good);
  make(bad.get());
  return {message, [bad](E* p) { p->hash = bad.get(); }};
}

const void* After(const void* pointer, int bytes) {
  return static_cast<const char*>(pointer) + bytes;
}

// w1, b1, ... of one of the two encoders, `side`, whose fields are named `name`.
std::vector<Fault<E>> EncoderFaults(const std::string& name, EncoderWeights HashWeights::*side,
                                    const HashWeights& good) {
  std::vector<Fault<E>> faults;
  const std::pair<const char*, const void * EncoderWeights::*> arrays[] = {{"w1", &EncoderWeights::w1},
                                                                           {"b1", &EncoderWeights::b1},
                                                                           {"w2", &EncoderWeights::w2},
                                                                           {"b2", &EncoderWeights::b2},
                                                                           {"skip", &EncoderWeights::skip}};
  for (const auto& [field, array] : arrays) {
    const auto member = array;
    faults.push_back(HashFault("hash." + name + "." + field + " is null", good,
                               [=](HashWeights* hash) { hash->*side.*member = nullptr; }));
    faults.push_back(HashFault("hash." + name + "." + field + " lies 4", good,
                               [=](HashWeights* hash) { hash->*side.*member = After(hash->*side.*member, 4); }));
  }
  for (const int32_t hidden : {-16, 20, 4112}) {
    faults.push_back(HashFault("hash." + name + ".hidden = " + std::to_string(hidden), good,
                               [=](HashWeights* hash) { (hash->*side).hidden = hidden; }));
  }
  return faults;
}

TEST(EncodeValidationTest, EncodeAndAppendNamesTheBadField) {
  Arena arena(1 << 20);
  auto* weights = arena.Allocate<float>(1 << 15);
  auto* q = arena.Allocate<float>(2 * 6 * 64);
  auto* inv_freq = arena.Allocate<float>(32);
  auto* positions = arena.Allocate<int32_t>(2);
  auto* slots = arena.Allocate<int64_t>(2);
  auto* far_slots = arena.Allocate<int64_t>(2);
  slots[0] = 3;
  slots[1] = -1;
  far_slots[1] = 64;
  HashWeights hash;
  hash.key = {16, weights, weights, weights, weights, weights};
  hash.query = {32, weights, weights, weights, weights, weights};
  E good;
  good.num_tokens = good.num_plane_tokens = 2;
  good.num_q_heads = 2;
  good.num_kv_heads = 2;
  good.head_dim = 64;
  good.q = q;
  good.k = q + 128;
  good.v = q + 256;
  good.q_stride = good.k_stride = good.v_stride = 6 * 64;
  good.q_bias = good.k_bias = good.v_bias = weights;
  good.inv_freq = inv_freq;
  good.positions = positions;
  good.slots = slots;
  good.hash = &hash;
  good.pages = {arena.Allocate<float>(2 * 64 * 2 * 64), arena.Allocate<uint32_t>(2 * 64 * 4),
                arena.Allocate<uint32_t>(2 * 64), 1};
  good.q_out = arena.Allocate<float>(2 * 2 * 64);
  good.planes = arena.Allocate<uint32_t>(2 * 2 * 4 * 4);
  good.plane_unit = arena.Allocate<float>(2 * 2);
  ASSERT_TRUE(EncodeAndAppend(good).ok()) << EncodeAndAppend(good);

  std::vector<Fault<E>> faults = Concat<E>(
      CommonFaults<E>(),
      {Set("num_tokens", &E::num_tokens, -1),
       Set("num_plane_tokens", &E::num_plane_tokens, 3),
       Set("num_plane_tokens", &E::num_plane_tokens, -1),
       Null("k", &E::k),
       Shifted("k", &E::k, 4),
       Null("v", &E::v),
       Shifted("v", &E::v, 12),
       Set("q_stride", &E::q_stride, 127),
       Set("q_stride", &E::q_stride, 130),
       Set("k_stride", &E::k_stride, 127),
       Set("k_stride", &E::k_stride, -384),
       Set("v_stride", &E::v_stride, 0),
       Set("v_stride", &E::v_stride, 386),
       Shifted("q_bias", &E::q_bias, 4),
       Shifted("k_bias", &E::k_bias, 4),
       Shifted("v_bias", &E::v_bias, 4),
       Null("inv_freq", &E::inv_freq),
       Shifted("inv_freq", &E::inv_freq, 2),
       {"rope_scale = -1", [](E* p) { p->rope_scale = -1; }},
       {"rope_scale = nan", [](E* p) { p->rope_scale = std::nanf(""); }},
       Null("positions", &E::positions),
       Shifted("positions", &E::positions, 1),
       Null("slots", &E::slots),
       Shifted("slots", &E::slots, 4),
       {"pages.codes is null", [](E* p) { p->pages.codes = nullptr; }},
       {"pages.codes lies 4", [](E* p) { p->pages.codes += 1; }},
       {"pages.prefix is null", [](E* p) { p->pages.prefix = nullptr; }},
       {"pages.prefix lies 4", [](E* p) { p->pages.prefix += 1; }},
       Null("q_out", &E::q_out),
       Shifted("q_out", &E::q_out, 4),
       Null("planes", &E::planes),
       Shifted("planes", &E::planes, 4),
       Null("plane_unit", &E::plane_unit),
       Shifted("plane_unit", &E::plane_unit, 3),
       HashFault("hash.weight_dtype = 2", hash, [](HashWeights* h) { h->weight_dtype = DType::kF16; }),
       HashFault("hash.weight_dtype = 77", hash, [](HashWeights* h) { h->weight_dtype = static_cast<DType>(77); }),
       HashFault("hash.hash_words = 3", hash, [](HashWeights* h) { h->hash_words = 3; }),
       HashFault("hash.hash_words = 0", hash, [](HashWeights* h) { h->hash_words = 0; }),
       HashFault("hash.num_planes = 0", hash, [](HashWeights* h) { h->num_planes = 0; }),
       HashFault("hash.num_planes = 5", hash, [](HashWeights* h) { h->num_planes = 5; }),
       HashFault("hash.plane_step = 0", hash, [](HashWeights* h) { h->plane_step = 0; }),
       HashFault("hash.plane_step = nan", hash, [](HashWeights* h) { h->plane_step = std::nanf(""); })});
  faults = Concat(faults, EncoderFaults("key", &HashWeights::key, hash));
  faults = Concat(faults, EncoderFaults("query", &HashWeights::query, hash));
  const ArenaCopy before(arena);
  ExpectRefused(good, EncodeAndAppend, faults, DeviceKind::kCuda);
  faults.push_back({"slots[1] = 64", [=](E* p) { p->slots = far_slots; }});
  ExpectRefused(good, EncodeAndAppend, faults, DeviceKind::kCpu);
  EXPECT_TRUE(before.EqualsOutside(arena, {}));
}

TEST(EncodeValidationTest, PointwiseNamesTheBadField) {
  alignas(16) static float memory[64] = {};
  AddRmsNormParams norm;
  norm.num_tokens = 1;
  norm.hidden = 32;
  norm.eps = 1e-5f;
  norm.x = norm.out = memory;
  norm.weight = memory + 32;
  SiluMulParams silu;
  silu.num_tokens = 1;
  silu.intermediate = 16;
  silu.gate_up = memory;
  silu.out = memory + 32;
  ASSERT_TRUE(AddRmsNorm(norm).ok());
  ASSERT_TRUE(SiluMul(silu).ok());
  for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
    using N = AddRmsNormParams;
    ExpectRefused<N>(norm, AddRmsNorm,
                     {Set("num_tokens", &N::num_tokens, -1),
                      {"execution.device = 2", [](N* p) { p->execution.device = static_cast<DeviceKind>(2); }},
                      {"dtype = 3", [](N* p) { p->dtype = static_cast<DType>(3); }},
                      Set("hidden", &N::hidden, 24),
                      Set("hidden", &N::hidden, 0),
                      Set("hidden", &N::hidden, -16),
                      {"eps = -1", [](N* p) { p->eps = -1; }},
                      Null("x", &N::x),
                      Null("weight", &N::weight),
                      Null("out", &N::out)},
                     device);
    using S = SiluMulParams;
    ExpectRefused<S>(silu, SiluMul,
                     {Set("num_tokens", &S::num_tokens, -1),
                      {"dtype = 9", [](S* p) { p->dtype = static_cast<DType>(9); }},
                      Set("intermediate", &S::intermediate, 0),
                      Set("intermediate", &S::intermediate, 8),
                      Null("gate_up", &S::gate_up),
                      Null("out", &S::out)},
                     device);
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
