#include "training/text_files.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/utf8.h"

namespace spotlight::training {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPieceBytes = 256 << 10;

absl::Status Unreadable(const std::string& path, const std::string& reason) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read: ", reason));
}

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) return Unreadable(path, std::strerror(errno));
  std::string text;
  std::string block(1 << 20, '\0');
  for (size_t count = block.size(); count == block.size();) {
    count = std::fread(block.data(), 1, block.size(), file.get());
    text.append(block, 0, count);
  }
  if (std::ferror(file.get()) != 0) return Unreadable(path, std::strerror(errno));
  return text;
}

bool IsText(const std::string& text) {
  return std::memchr(text.data(), '\0', text.size()) == nullptr && engine::IsValidUtf8(text);
}

// Whether the first block is text, but for a character that its end cuts. False where it cannot be read.
bool BeginsAsText(const std::string& path) {
  constexpr size_t kBlockBytes = 64 << 10, kMaxCharacterBytes = 4;
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) return false;
  std::string block(kBlockBytes, '\0');
  block.resize(std::fread(block.data(), 1, block.size(), file.get()));
  if (IsText(block)) return true;
  if (block.size() < kBlockBytes) return false;
  for (size_t cut = 1; cut < kMaxCharacterBytes; ++cut) {
    block.pop_back();
    if (IsText(block)) return true;
  }
  return false;
}

// Regular files below `folder`. Links to folders are not followed: they may lead back.
// Not recursive_directory_iterator: LibTorch brings parts of an older libstdc++'s, and they do not fit together.
absl::Status AddFilesOf(const std::string& folder, std::vector<std::string>& files) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string path = it->path().string();
    std::error_code ignored;  // gone meanwhile
    if (it->path().filename().string().front() == '.') continue;
    if (it->is_directory(ignored) && !it->is_symlink(ignored)) {
      if (absl::Status status = AddFilesOf(path, files); !status.ok()) return status;
    } else if (it->is_regular_file(ignored)) {
      files.push_back(path);
    }
  }
  return error ? Unreadable(folder, error.message()) : absl::OkStatus();
}

// Takes pieces so that their bytes stay `share` of all that was offered.
class EvenShare {
 public:
  explicit EvenShare(double share) : share_(share) {}
  bool Take(size_t bytes) {
    credit_ += share_ * static_cast<double>(bytes);
    if (credit_ < 0.5 * static_cast<double>(bytes)) return false;
    credit_ -= static_cast<double>(bytes);
    return true;
  }

 private:
  double share_;
  double credit_ = 0;
};

// Where the piece of `text` that begins at `begin` ends: a line end near kPieceBytes, else a whole character.
size_t PieceEnd(const std::string& text, size_t begin) {
  if (text.size() - begin <= kPieceBytes + kPieceBytes / 4) return text.size();
  const size_t line_end = text.find('\n', begin + kPieceBytes);
  if (line_end != std::string::npos && line_end < begin + 2 * kPieceBytes) return line_end + 1;
  size_t end = begin + kPieceBytes;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  return end;
}

class Reader {
 public:
  explicit Reader(double share) : share_(share) {}

  // `named`: by the user, who is told when it is no text.
  absl::Status Read(const std::string& path, bool named) {
    auto text = ReadWhole(path);
    if (!text.ok()) return text.status();
    if (text->empty()) return absl::OkStatus();
    if (!IsText(*text)) {
      if (named) return absl::InvalidArgumentError(absl::StrCat(path, ": is not UTF-8 text"));
      ++files_.num_skipped_files;
      return absl::OkStatus();
    }
    files_.total_bytes += static_cast<int64_t>(text->size());
    bool begins_document = true;
    for (size_t begin = 0, end = 0; begin < text->size(); begin = end) {
      end = PieceEnd(*text, begin);
      if (!share_.Take(end - begin)) {
        if (first_left_.text.empty()) first_left_ = {path, /*begins_document=*/true, text->substr(begin, end - begin)};
        continue;
      }
      files_.num_files += begins_document ? 1 : 0;
      files_.num_bytes += static_cast<int64_t>(end - begin);
      files_.pieces.push_back({path, begins_document, text->substr(begin, end - begin)});
      begins_document = false;
    }
    return absl::OkStatus();
  }

  // Of a text of few pieces a small share may be none: then its first one is taken.
  TextFiles Take() {
    if (files_.pieces.empty() && !first_left_.text.empty()) {
      files_.num_files = 1;
      files_.num_bytes = static_cast<int64_t>(first_left_.text.size());
      files_.pieces.push_back(std::move(first_left_));
    }
    return std::move(files_);
  }

  int64_t total_bytes() const { return files_.total_bytes; }

 private:
  EvenShare share_;
  TextFiles files_;
  TextPiece first_left_;
};

struct Source {
  std::string path;  // as named
  bool is_folder = false;
  std::vector<std::string> files;
};

absl::StatusOr<Source> Find(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  if (status.type() == fs::file_type::none) return Unreadable(path, error.message());
  if (fs::is_character_file(status) || fs::is_block_file(status) || fs::is_socket(status)) {
    return Unreadable(path, "is a device, and no file");
  }
  if (status.type() != fs::file_type::directory) return Source{path, false, {path}};
  Source source{path, true, {}};
  if (absl::Status found = AddFilesOf(path, source.files); !found.ok()) return found;
  std::sort(source.files.begin(), source.files.end());
  return source;
}

// Of what is text by its beginning: archives and pictures beside it must not shrink its share.
int64_t NumBytes(const std::vector<Source>& sources) {
  int64_t num_bytes = 0;
  for (const Source& source : sources) {
    for (const std::string& file : source.files) {
      std::error_code error;  // reading it says what is wrong
      const auto bytes = fs::file_size(file, error);
      if (!error && BeginsAsText(file)) num_bytes += static_cast<int64_t>(bytes);
    }
  }
  return num_bytes;
}

}  // namespace

absl::StatusOr<TextFiles> ReadTextFiles(const std::vector<std::string>& paths, int64_t max_bytes) {
  if (paths.empty()) return absl::InvalidArgumentError("no text: name at least one file or folder");
  std::vector<Source> sources;
  for (const std::string& path : paths) {
    auto source = Find(path);
    if (!source.ok()) return source.status();
    sources.push_back(*std::move(source));
  }
  const int64_t num_bytes = NumBytes(sources);
  Reader reader(num_bytes > max_bytes ? static_cast<double>(max_bytes) / static_cast<double>(num_bytes) : 1);
  for (const Source& source : sources) {
    const int64_t bytes_before = reader.total_bytes();
    for (const std::string& file : source.files) {
      if (absl::Status status = reader.Read(file, !source.is_folder); !status.ok()) return status;
    }
    if (reader.total_bytes() == bytes_before) {
      return absl::InvalidArgumentError(source.is_folder ? absl::StrCat(source.path, ": holds no UTF-8 text among its ",
                                                                        source.files.size(), " files")
                                                         : absl::StrCat(source.path, ": is empty"));
    }
  }
  return reader.Take();
}

}  // namespace spotlight::training
