// The text that a hash is trained on, as files hold it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace spotlight::training {

// A file, or a part of one: long files are cut at line ends, so that a part of a large text can be taken evenly.
struct TextPiece {
  std::string path;
  bool begins_document = false;
  std::string text;  // UTF-8, not empty
};

struct TextFiles {
  std::vector<TextPiece> pieces;
  int64_t num_files = 0, num_bytes = 0;  // of `pieces`
  int64_t total_bytes = 0;               // of all text found
  int64_t num_skipped_files = 0;         // of folders: not UTF-8 text
};

// Reads `paths` in order: files, and folders with everything in them sorted by path, entries whose names begin with a
// dot left out. Of more than `max_bytes` of text an even share is taken: every n-th piece.
// NOT_FOUND, INVALID_ARGUMENT: "PATH: reason" for what is not there, cannot be read, is a file that is not UTF-8 text,
// or a folder without any.
absl::StatusOr<TextFiles> ReadTextFiles(const std::vector<std::string>& paths, int64_t max_bytes);

}  // namespace spotlight::training
