// What names the content of a page in the prefix cache: SHA-256 over all that its keys, values and codes follow from.
//
// hash(page k) = SHA-256(hash(page k - 1), the page's 64 token ids as little-endian int32), and in place of a page
// before the first one SHA-256(a constant, the request's cache_salt). Model, hash weights and dtype do not change while
// a cache lives. How attention was computed is no part of it: only pages computed densely are ever named (scheduler.h).
// A page that is found by its hash is used unseen, so that two contents of one hash would give one tenant's
// context to another: hence a cryptographic hash, whole.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spotlight::engine {

using PageHash = std::array<uint8_t, 32>;

// The hash of nothing, which the first page follows.
PageHash RootHash(absl::string_view cache_salt);
// token_ids: kernels::kPageTokens of them.
PageHash NextPageHash(const PageHash& parent, const int32_t* token_ids);

// The root, then the hash of each full page of `token_ids`.
std::vector<PageHash> PageHashes(absl::string_view cache_salt, absl::Span<const int32_t> token_ids);

// For hash maps: any eight bytes are as good as random.
struct PageHashBits {
  size_t operator()(const PageHash& hash) const {
    size_t bits;
    std::memcpy(&bits, hash.data(), sizeof(bits));
    return bits;
  }
};

}  // namespace spotlight::engine
