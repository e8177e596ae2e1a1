#include "engine/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/config_fields.h"
#include "engine/model/safetensors_header.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the safetensors library

uint64_t LittleEndian64(const std::byte* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

std::string LastError() {
  return strerror(errno);
}

// A mapped file, or the reason why not.
struct MappedBytes {
  const std::byte* bytes = nullptr;
  uint64_t num_bytes = 0;
};

absl::StatusOr<MappedBytes> MapFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const std::string message = absl::StrCat(path, ": ", LastError());
    return errno == ENOENT ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  struct stat info;
  void* address = MAP_FAILED;
  std::string error;
  if (fstat(fd, &info) != 0) {
    error = LastError();
  } else if (!S_ISREG(info.st_mode)) {
    error = "is not a file";
  } else if (static_cast<uint64_t>(info.st_size) < kLengthBytes) {
    error = absl::StrCat("has ", info.st_size, " bytes: too short for a safetensors file");
  } else {
    address = mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) error = absl::StrCat("cannot be mapped: ", LastError());
  }
  close(fd);
  if (!error.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", error));
  return MappedBytes{static_cast<const std::byte*>(address), static_cast<uint64_t>(info.st_size)};
}

}  // namespace

struct SafetensorsFile::Mapping {
  std::string path;
  MappedBytes file;
  const std::byte* data = nullptr;  // of the tensors
  SafetensorsHeader header;

  ~Mapping() {
    if (file.bytes != nullptr) munmap(const_cast<std::byte*>(file.bytes), file.num_bytes);
  }
};

SafetensorsFile::SafetensorsFile(std::unique_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}
SafetensorsFile::~SafetensorsFile() = default;

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  absl::StatusOr<MappedBytes> file = MapFile(path);
  if (!file.ok()) return file.status();
  auto mapping = std::make_unique<Mapping>();
  mapping->path = path;
  mapping->file = *file;

  const uint64_t header_bytes = LittleEndian64(file->bytes);
  const uint64_t max_bytes = file->num_bytes - kLengthBytes;
  if (header_bytes > max_bytes || header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": claims a header of ", header_bytes, " bytes, ",
                                                   header_bytes > max_bytes
                                                       ? absl::StrCat("the file has ", max_bytes, " after its length")
                                                       : absl::StrCat("over the limit of ", kMaxHeaderBytes)));
  }
  mapping->data = file->bytes + kLengthBytes + header_bytes;
  const absl::string_view text(reinterpret_cast<const char*>(file->bytes) + kLengthBytes, header_bytes);
  absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(text, max_bytes - header_bytes);
  if (!header.ok()) return InFile(path, header.status());
  mapping->header = *std::move(header);
  return std::unique_ptr<SafetensorsFile>(new SafetensorsFile(std::move(mapping)));
}

absl::StatusOr<TensorView> SafetensorsFile::Find(const std::string& name) const {
  const auto it = mapping_->header.tensors.find(name);
  if (it == mapping_->header.tensors.end()) {
    return absl::NotFoundError(absl::StrCat(path(), ": has no tensor ", name));
  }
  const SafetensorsHeader::Tensor& tensor = it->second;
  TensorView view;
  if (tensor.dtype == "F32") {
    view.dtype = kernels::DType::kF32;
  } else if (tensor.dtype == "BF16") {
    view.dtype = kernels::DType::kBF16;
  } else if (tensor.dtype == "F16") {
    view.dtype = kernels::DType::kF16;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": tensor ", name, " has dtype ", tensor.dtype, "; F32, BF16 and F16 are supported"));
  }
  view.shape = tensor.shape;
  view.data = mapping_->data + tensor.begin;
  view.num_bytes = tensor.end - tensor.begin;
  return view;
}

absl::StatusOr<Int8View> SafetensorsFile::FindInt8(const std::string& name) const {
  const auto it = mapping_->header.tensors.find(name);
  if (it == mapping_->header.tensors.end()) {
    return absl::NotFoundError(absl::StrCat(path(), ": has no tensor ", name));
  }
  const SafetensorsHeader::Tensor& tensor = it->second;
  if (tensor.dtype != "I8") {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": tensor ", name, " has dtype ", tensor.dtype, ", not I8"));
  }
  return Int8View{tensor.shape, reinterpret_cast<const int8_t*>(mapping_->data + tensor.begin),
                  static_cast<size_t>(tensor.end - tensor.begin)};
}

bool SafetensorsFile::Has(const std::string& name) const {
  return mapping_->header.tensors.count(name) > 0;
}

bool SafetensorsFile::HasInt8(const std::string& name) const {
  const auto it = mapping_->header.tensors.find(name);
  return it != mapping_->header.tensors.end() && it->second.dtype == "I8";
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  names.reserve(mapping_->header.tensors.size());
  for (const auto& entry : mapping_->header.tensors) names.push_back(entry.first);
  return names;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return mapping_->header.metadata;
}
const std::string& SafetensorsFile::path() const {
  return mapping_->path;
}

void SafetensorsFile::Release(const TensorView& view) const {
  // Elsewhere the advice would not only free pages but lose what they hold.
  const std::less<const std::byte*> before;
  const std::byte* file_end = mapping_->file.bytes + mapping_->file.num_bytes;
  if (before(view.data, mapping_->file.bytes) || before(file_end, view.data + view.num_bytes)) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(view.data);
  const uintptr_t begin = (address + page - 1) / page * page;
  const uintptr_t end = (address + view.num_bytes) / page * page;
  // Advice: nothing is lost where the system does not take it.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace spotlight::engine
