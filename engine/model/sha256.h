// SHA-256 of bytes that come piece by piece.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace spotlight::engine {

// Thread-compatible.
class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void Add(const void* bytes, size_t num_bytes) { EVP_DigestUpdate(context_.get(), bytes, num_bytes); }
  // Ends the digest, as Hex does.
  std::array<uint8_t, 32> Digest() {
    std::array<uint8_t, 32> digest;
    EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
    return digest;
  }
  // 64 lower-case hexadecimal digits.
  std::string Hex() {
    const std::array<uint8_t, 32> digest = Digest();
    return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace spotlight::engine
