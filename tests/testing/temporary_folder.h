#pragma once

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "stdlib.h"

namespace spotlight::testing {

// A folder for one test's files, gone with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "spotlight-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string Path(const std::string& name) const { return path_ + "/" + name; }

  // Replaces the file at once, as tools that deploy secrets do; its path.
  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = Path(name);
    const std::string next = path + ".next";
    std::ofstream(next, std::ios::binary) << text;
    std::rename(next.c_str(), path.c_str());
    return path;
  }
  void Remove(const std::string& name) const { std::filesystem::remove(Path(name)); }

 private:
  std::string path_;
};

}  // namespace spotlight::testing
