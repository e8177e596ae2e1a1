// Certificates, keys and tokens that change while the server runs. Files are read again every few seconds and compared:
// change notifications miss NFS and the links that Kubernetes swaps.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/mutex.h"

namespace spotlight::server {

// Files that make sense only together, such as a certificate and its key.
struct WatchedFiles {
  std::string name;  // for the log: "certificate"
  std::vector<std::string> paths;
  // Takes the contents, in the order of the paths. On an error what was taken before stays. Errors name the file and
  // never quote it.
  std::function<absl::Status(const std::vector<std::string>& contents)> apply;
};

// Reads files of up to a megabyte; larger ones, and what is no regular file, are errors.
absl::StatusOr<std::vector<std::string>> ReadFiles(const std::vector<std::string>& paths);

// Thread-safe: `apply` and the observer are called on one thread of its own after Start has returned. Watches until
// destroyed. Logs each change and each new failure once.
class FileWatch {
 public:
  // After each attempt to take a change.
  using Observer = std::function<void(const WatchedFiles& files, bool taken)>;

  // Applies everything once, on this thread; the first error is the result.
  static absl::StatusOr<std::unique_ptr<FileWatch>> Start(std::vector<WatchedFiles> files, absl::Duration interval,
                                                          Observer observer);
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

 private:
  struct State {
    WatchedFiles files;
    std::string digest;   // of the contents last seen: the text of a key is not kept twice
    std::string failure;  // of the last attempt; empty: it was taken
  };

  FileWatch(std::vector<State> states, absl::Duration interval, Observer observer);
  void Watch();
  void Look(State* state) const;

  std::vector<State> states_;  // the thread's
  const absl::Duration interval_;
  const Observer observer_;
  Mutex mutex_;
  CondVar stopped_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spotlight::server
