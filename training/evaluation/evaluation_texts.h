// The texts that retrieval is judged on, cut to sequences of one length. No torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::training {

struct EvaluationText {
  std::string path;
  std::string name;  // the file's, without the last extension
  std::string kind;  // "books", "code", ...
};

// Files and folders; KIND=PATH says what a file or all of a folder is. Without it the kind is the name of the folder
// that a file lies in. Folders are read with all their folders, files by path, names that begin with a dot left out.
// NOT_FOUND, INVALID_ARGUMENT: "PATH: reason" for what is not there or is a folder without files.
absl::StatusOr<std::vector<EvaluationText>> FindTexts(const std::vector<std::string>& paths);

struct TextSequence {
  std::string text, kind;  // EvaluationText's name and kind
  int64_t index = 0;       // of the text's sequences
  std::vector<int32_t> token_ids;
};

// The first `max_sequences` sequences of `tokens` tokens of each text, one after the other, each with what the
// tokenizer puts before a text (a BOS). A text gives fewer where it ends earlier. INVALID_ARGUMENT "PATH: reason":
// shorter than one sequence (with both numbers), not UTF-8; NOT_FOUND: it cannot be read.
absl::StatusOr<std::vector<TextSequence>> CutSequences(const std::vector<EvaluationText>& texts,
                                                       const engine::Tokenizer& tokenizer, int64_t tokens,
                                                       int64_t max_sequences);

}  // namespace spotlight::training
