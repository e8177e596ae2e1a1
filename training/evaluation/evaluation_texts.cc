#include "training/evaluation/evaluation_texts.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "training/corpus.h"

namespace spotlight::training {
namespace {

namespace fs = std::filesystem;

// Bytes read at first for each token wanted: more than any usual text has, so that long files are not read whole.
constexpr int64_t kBytesPerToken = 8;

absl::Status AtPath(const fs::path& path, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", reason));
}

EvaluationText TextAt(const fs::path& path, const std::string& kind) {
  EvaluationText text{path.string(), path.stem().string(), kind};
  if (kind.empty()) text.kind = fs::absolute(path).lexically_normal().parent_path().filename().string();
  return text;
}

// Links to folders are not followed: they may lead back.
// Not recursive_directory_iterator: LibTorch brings parts of an older libstdc++'s, and they do not fit together.
absl::Status AddFilesOf(const fs::path& folder, std::vector<fs::path>* files) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;  // a link that leads nowhere
    if (absl::StartsWith(it->path().filename().string(), ".")) continue;
    if (it->is_directory(ignored) && !it->is_symlink(ignored)) {
      if (absl::Status status = AddFilesOf(it->path(), files); !status.ok()) return status;
    } else if (it->is_regular_file(ignored)) {
      files->push_back(it->path());
    }
  }
  return error ? AtPath(folder, error.message()) : absl::OkStatus();
}

// With the files of `folder` in the order of their paths.
absl::Status AppendFolder(const fs::path& folder, const std::string& kind, std::vector<EvaluationText>* texts) {
  std::vector<fs::path> files;
  if (absl::Status status = AddFilesOf(folder, &files); !status.ok()) return status;
  if (files.empty()) return AtPath(folder, "holds no files");
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) texts->push_back(TextAt(file, kind));
  return absl::OkStatus();
}

// The first `bytes` of a file, back to the last whole character; all of a shorter one.
absl::StatusOr<std::string> ReadBegin(const std::string& path, int64_t bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  std::string text(static_cast<size_t>(bytes), '\0');
  file.read(&text[0], bytes);
  if (file.bad()) return AtPath(path, "reading failed");
  const auto read = static_cast<size_t>(file.gcount());
  const bool whole = read < text.size();
  text.resize(read);
  if (whole) return text;
  size_t end = text.size();
  while (end > 0 && text.size() - end < 4 && (static_cast<unsigned char>(text[end - 1]) & 0xc0) == 0x80) --end;
  if (end > 0 && static_cast<unsigned char>(text[end - 1]) >= 0xc0) text.resize(end - 1);
  return text;
}

// At least `wanted` tokens where the text has them; no special ones.
absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& path, const engine::Tokenizer& tokenizer,
                                                int64_t wanted) {
  for (int64_t bytes = std::max<int64_t>(wanted, 1) * kBytesPerToken;; bytes *= 4) {
    auto text = ReadBegin(path, bytes);
    if (!text.ok()) return text.status();
    auto ids = tokenizer.Encode(*text, /*add_special_tokens=*/false);
    if (!ids.ok()) return AtPath(path, ids.status().message());
    const bool whole = static_cast<int64_t>(text->size()) < bytes - 4;
    if (whole || static_cast<int64_t>(ids->size()) >= wanted) return ids;
  }
}

}  // namespace

absl::StatusOr<std::vector<EvaluationText>> FindTexts(const std::vector<std::string>& paths) {
  std::vector<EvaluationText> texts;
  for (const std::string& given : paths) {
    std::string kind, name = given;
    std::error_code error;
    const size_t equals = given.find('=');
    if (equals != std::string::npos && !fs::exists(given, error)) {
      kind = given.substr(0, equals);
      name = given.substr(equals + 1);
    }
    const fs::path path = name;
    if (!fs::exists(path, error)) {
      return absl::NotFoundError(absl::StrCat(name, ": ", error ? error.message() : "no such file or folder"));
    }
    if (fs::is_directory(path, error)) {
      if (absl::Status status = AppendFolder(path, kind, &texts); !status.ok()) return status;
    } else {
      texts.push_back(TextAt(path, kind));
    }
  }
  return texts;
}

absl::StatusOr<std::vector<TextSequence>> CutSequences(const std::vector<EvaluationText>& texts,
                                                       const engine::Tokenizer& tokenizer, int64_t tokens,
                                                       int64_t max_sequences) {
  const auto prefix = TokensBeforeText(tokenizer);  // as in training
  if (!prefix.ok()) return prefix.status();
  const int64_t body = tokens - static_cast<int64_t>(prefix->size());
  std::vector<TextSequence> sequences;
  for (const EvaluationText& text : texts) {
    const auto ids = ReadTokens(text.path, tokenizer, body * max_sequences);
    if (!ids.ok()) return ids.status();
    const auto available = static_cast<int64_t>(ids->size());
    if (available < body) {
      return AtPath(text.path, absl::StrCat("has ", available, " tokens, a sequence needs ", tokens, " (--context)"));
    }
    const int64_t count = std::min(max_sequences, available / body);
    for (int64_t i = 0; i < count; ++i) {
      TextSequence sequence{text.name, text.kind, i, *prefix};
      sequence.token_ids.insert(sequence.token_ids.end(), ids->begin() + i * body, ids->begin() + (i + 1) * body);
      sequences.push_back(std::move(sequence));
    }
  }
  return sequences;
}

}  // namespace spotlight::training
