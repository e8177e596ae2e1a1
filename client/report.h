// The words for a finished stream: counts, speed, and what retrieval did.
#pragma once

#include <string>
#include <vector>

#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::client {

// Three lines from the stream's last message, four where retrieval's quality was sampled; a line whose figures the
// server did not send is left out. Of several samples: the counts of all, then a line for each.
std::string Report(const std::vector<v1::GenerateStreamResponse>& finishes);

// "12 sparse + 3 dense steps (short context), attended to 2.0% of context, KV bytes read 7% of dense".
std::string DescribeRetrieval(const v1::RetrievalStats& stats);

}  // namespace spotlight::client
