// Prompts from a file, in the formats that benchmarks use.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/bench/workload.h"

namespace spotlight::client::bench {

// At most `max_prompts` of `text`, the whole of the file called `name` in errors. The first character tells the format:
//
//   [  a JSON array of records, as ShareGPT's file is
//   {  a record a line (JSON lines)
//   else a prompt a line, as it stands; empty lines are skipped
//
// A record holds a prompt: "prompt" (a string), "token_ids", "messages" ([{"role", "content"}]) or ShareGPT's
// "conversations" ([{"from", "value"}], whose first two turns are prompt and reference answer); and may hold its
// output's length as "output_tokens", "output_len" or "max_tokens". Conversations of fewer than two turns are skipped,
// as they are in ShareGPT's use elsewhere. INVALID_ARGUMENT names the record.
absl::StatusOr<std::vector<DatasetPrompt>> ParseDataset(const std::string& name, const std::string& text,
                                                        size_t max_prompts);

}  // namespace spotlight::client::bench
