#include "engine/model/hash_folders.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace spotlight::engine {

std::string UserHashFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string root =
      cache != nullptr && *cache != '\0' ? cache : absl::StrCat(home != nullptr ? home : "", "/.cache");
  return absl::StrCat(root, "/spotlight/hashes");
}

std::vector<std::string> ShippedHashFolders() {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  std::vector<std::string> folders;
  if (error) return folders;
  for (const std::string& folder : {absl::StrCat(program.parent_path().parent_path().string(), "/hashes"),
                                    absl::StrCat(program.string(), ".runfiles/spotlight/training/hashes")}) {
    if (fs::is_directory(folder, error)) folders.push_back(folder);
  }
  return folders;
}

std::vector<std::string> HashFolders(const std::vector<std::string>& first) {
  std::vector<std::string> folders = first;
  for (std::string& folder : ShippedHashFolders()) folders.push_back(std::move(folder));
  folders.push_back(UserHashFolder());
  return folders;
}

}  // namespace spotlight::engine
