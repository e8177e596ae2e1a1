// The flags of a generation request: sampling, stopping, retrieval. generate and chat share them.
#pragma once

#include <vector>

#include "client/command_line.h"
#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::client {

// Sets the request's fields as flags come; a flag not given leaves its field absent, so that the server's default
// holds. `request` must outlive the groups.
std::vector<OptionGroup> GenerationOptions(v1::GenerateRequest* request);

}  // namespace spotlight::client
