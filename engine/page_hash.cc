#include "engine/page_hash.h"

#include "engine/model/sha256.h"
#include "kernels/layout.h"

namespace spotlight::engine {

PageHash RootHash(absl::string_view cache_salt) {
  constexpr absl::string_view kPurpose = "spotlight prefix cache 1:";
  Sha256 sha256;
  sha256.Add(kPurpose.data(), kPurpose.size());
  sha256.Add(cache_salt.data(), cache_salt.size());
  return sha256.Digest();
}

PageHash NextPageHash(const PageHash& parent, const int32_t* token_ids) {
  Sha256 sha256;
  sha256.Add(parent.data(), parent.size());
  sha256.Add(token_ids, kernels::kPageTokens * sizeof(int32_t));
  return sha256.Digest();
}

std::vector<PageHash> PageHashes(absl::string_view cache_salt, absl::Span<const int32_t> token_ids) {
  std::vector<PageHash> hashes = {RootHash(cache_salt)};
  const size_t num_pages = token_ids.size() / kernels::kPageTokens;
  hashes.reserve(num_pages + 1);
  for (size_t page = 0; page < num_pages; ++page) {
    hashes.push_back(NextPageHash(hashes.back(), token_ids.data() + page * kernels::kPageTokens));
  }
  return hashes;
}

}  // namespace spotlight::engine
