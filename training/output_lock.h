// The right to write a file, held while what goes into it is being made.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace spotlight::training {

// PATH.lock, locked for this process and removed by the destructor; a process that dies leaves the file unlocked.
// Taking it proves that the folder can be written to, before hours are spent.
class OutputLock {
 public:
  // NOT_FOUND: the folder is missing. INVALID_ARGUMENT: it cannot be written to, or `path` is a folder.
  // FAILED_PRECONDITION: another process holds the lock.
  static absl::StatusOr<std::unique_ptr<OutputLock>> Acquire(const std::string& path);
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  OutputLock(std::string lock_path, int file) : lock_path_(std::move(lock_path)), file_(file) {}

  const std::string lock_path_;
  const int file_;
};

}  // namespace spotlight::training
