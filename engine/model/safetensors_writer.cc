#include "engine/model/safetensors_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

using nlohmann::json;

const char* NameOf(kernels::DType dtype) {
  switch (dtype) {
    case kernels::DType::kF32:
      return "F32";
    case kernels::DType::kBF16:
      return "BF16";
    case kernels::DType::kF16:
      return "F16";
  }
  return "";
}

absl::Status FileError(const std::string& path, const char* what) {
  const bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
  return absl::Status(full ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kInvalidArgument,
                      absl::StrCat(path, ": cannot be ", what, ": ", std::string(strerror(errno))));
}

// What was written to `path` is on the disk, or false.
bool Sync(const std::string& path, int flags) {
  const int file = open(path.c_str(), flags | O_CLOEXEC);
  if (file < 0) return false;
  const bool synced = fsync(file) == 0;
  const int error = errno;
  close(file);
  errno = error;
  return synced;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string path, uint64_t data_bytes)
    : path_(std::move(path)), partial_path_(path_ + ".partial"), data_bytes_(data_bytes) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (!file_.is_open()) return;
  file_.close();
  remove(partial_path_.c_str());
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<Tensor>& tensors, const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t end = 0;
  for (const Tensor& tensor : tensors) {
    const uint64_t begin = end;
    uint64_t num_bytes = tensor.is_int8 ? 1 : kernels::SizeOf(tensor.dtype);
    for (const int64_t dimension : tensor.shape) num_bytes *= static_cast<uint64_t>(dimension);
    end += num_bytes;
    const char* dtype = tensor.is_int8 ? "I8" : NameOf(tensor.dtype);
    header[tensor.name] = {{"dtype", dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string prefix(8, '\0');
  for (int i = 0; i < 8; ++i) prefix[i] = static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i));

  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, end));
  writer->file_.open(writer->partial_path_, std::ios::binary | std::ios::trunc);
  writer->file_ << prefix << text;
  if (!writer->file_) return FileError(writer->partial_path_, "written");
  return writer;
}

absl::Status SafetensorsWriter::Append(const void* bytes, size_t num_bytes) {
  if (num_bytes > data_bytes_ - appended_bytes_) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", appended_bytes_ + num_bytes, " bytes for tensors of ", data_bytes_));
  }
  file_.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(num_bytes));
  if (!file_) return FileError(partial_path_, "written");
  appended_bytes_ += num_bytes;
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (appended_bytes_ != data_bytes_) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", appended_bytes_, " bytes for tensors of ", data_bytes_));
  }
  file_.flush();
  if (!file_ || !Sync(partial_path_, O_RDONLY)) return FileError(partial_path_, "written");
  if (rename(partial_path_.c_str(), path_.c_str()) != 0) return FileError(path_, "created");
  file_.close();
  // The name too, where the file system can say so of a folder.
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  Sync(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY);
  return absl::OkStatus();
}

}  // namespace spotlight::engine
