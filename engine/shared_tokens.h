// Token ids that several sequences read and none changes: the samples of one prompt share its ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace spotlight::engine {

// A copy costs a reference, whatever the size. Assigning to one leaves the others as they are.
class SharedTokens {
 public:
  SharedTokens() = default;
  SharedTokens(std::vector<int32_t> ids)  // NOLINT(google-explicit-constructor): a vector is what it stands for
      : ids_(ids.empty() ? nullptr : std::make_shared<const std::vector<int32_t>>(std::move(ids))) {}
  SharedTokens(std::initializer_list<int32_t> ids) : SharedTokens(std::vector<int32_t>(ids)) {}

  const std::vector<int32_t>& ids() const {
    static const auto* const kNone = new std::vector<int32_t>;
    return ids_ == nullptr ? *kNone : *ids_;
  }
  size_t size() const { return ids_ == nullptr ? 0 : ids_->size(); }
  int32_t operator[](size_t index) const { return (*ids_)[index]; }

 private:
  std::shared_ptr<const std::vector<int32_t>> ids_;
};

}  // namespace spotlight::engine
