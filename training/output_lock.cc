#include "training/output_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace spotlight::training {
namespace {

// Whether the name still leads to the open file: its last holder may have removed it before we locked it.
bool IsNamed(const std::string& path, int file) {
  struct stat named = {}, opened = {};
  return stat(path.c_str(), &named) == 0 && fstat(file, &opened) == 0 && named.st_ino == opened.st_ino &&
         named.st_dev == opened.st_dev;
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputLock>> OutputLock::Acquire(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path folder = fs::path(path).parent_path();
  if (!folder.empty() && !fs::is_directory(folder, ignored)) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be written: there is no folder ", folder.string()));
  }
  if (fs::is_directory(path, ignored)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a folder; name the file to write"));
  }
  std::string lock_path = absl::StrCat(path, ".lock");
  while (true) {
    const int file = open(lock_path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    if (file < 0) {
      const bool full = errno == ENOSPC || errno == EDQUOT;
      return absl::Status(full ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kInvalidArgument,
                          absl::StrCat(path, ": cannot be written: ", std::string(std::strerror(errno))));
    }
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      close(file);
      if (error == EINTR) continue;
      if (error == EWOULDBLOCK) {
        return absl::UnavailableError(absl::StrCat(path, ": another process is making it (", lock_path, ")"));
      }
      unlink(lock_path.c_str());
      return absl::InvalidArgumentError(
          absl::StrCat(lock_path, ": cannot be locked: ", std::string(std::strerror(error))));
    }
    if (IsNamed(lock_path, file)) return std::unique_ptr<OutputLock>(new OutputLock(std::move(lock_path), file));
    close(file);
  }
}

OutputLock::~OutputLock() {
  unlink(lock_path_.c_str());
  close(file_);
}

}  // namespace spotlight::training
