#include "server/security/file_watch.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/security/sha256.h"
#include "spdlog/spdlog.h"

namespace spotlight::server {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return absl::NotFoundError(absl::StrCat(path, ": ", error ? error.message() : std::strerror(ENOENT)));
  }
  // Opening a pipe would wait for its writer.
  if (!std::filesystem::is_regular_file(status)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::PermissionDeniedError(absl::StrCat(path, ": ", std::strerror(errno)));
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return absl::DataLossError(absl::StrCat(path, ": cannot be read"));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is larger than ", kMaxFileBytes, " bytes"));
  }
  return text;
}

std::string DigestOf(const std::vector<std::string>& contents) {
  std::string digests;
  for (const std::string& text : contents) {
    const Sha256Digest digest = Sha256(text);
    digests.append(digest.begin(), digest.end());
  }
  return digests;
}

std::string ToString(absl::string_view text) {
  return std::string(text.data(), text.size());
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadFiles(const std::vector<std::string>& paths) {
  std::vector<std::string> contents;
  for (const std::string& path : paths) {
    auto text = ReadFile(path);
    if (!text.ok()) return text.status();
    contents.push_back(*std::move(text));
  }
  return contents;
}

absl::StatusOr<std::unique_ptr<FileWatch>> FileWatch::Start(std::vector<WatchedFiles> files, absl::Duration interval,
                                                            Observer observer) {
  std::vector<State> states;
  for (WatchedFiles& watched : files) {
    const auto contents = ReadFiles(watched.paths);
    if (!contents.ok()) return contents.status();
    if (absl::Status status = watched.apply(*contents); !status.ok()) return status;
    states.push_back({std::move(watched), DigestOf(*contents), ""});
  }
  return std::unique_ptr<FileWatch>(new FileWatch(std::move(states), interval, std::move(observer)));
}

FileWatch::FileWatch(std::vector<State> states, absl::Duration interval, Observer observer)
    : states_(std::move(states)), interval_(interval), observer_(std::move(observer)) {
  thread_ = std::thread([this] { Watch(); });
}

FileWatch::~FileWatch() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  stopped_.NotifyAll();
  thread_.join();
}

void FileWatch::Watch() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      if (!stopping_) stopped_.WaitFor(&mutex_, absl::ToChronoNanoseconds(interval_));
      if (stopping_) return;
    }
    for (State& state : states_) Look(&state);
  }
}

void FileWatch::Look(State* state) const {
  const auto contents = ReadFiles(state->files.paths);
  const std::string digest = contents.ok() ? DigestOf(*contents) : "";
  const bool unchanged = contents.ok() && digest == state->digest;
  if (unchanged && state->failure.empty()) return;
  // A file that failed and has not changed is tried again: a certificate may become valid by waiting.
  const absl::Status status = contents.ok() ? state->files.apply(*contents) : contents.status();
  const bool told = !status.ok() && status.message() == state->failure && (unchanged || !contents.ok());
  if (contents.ok()) state->digest = digest;
  state->failure = status.ok() ? "" : ToString(status.message());
  if (told) return;
  if (status.ok()) {
    spdlog::info("{}: reloaded", state->files.name);
  } else {
    spdlog::warn("{}: not reloaded, what was loaded before goes on: {}", state->files.name, state->failure);
  }
  if (observer_) observer_(state->files, status.ok());
}

}  // namespace spotlight::server
