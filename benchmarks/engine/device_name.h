// What a report says of the device.
#pragma once

#include <string>

namespace spotlight::engine {

// Of ModelInfo::device: "cpu" is its own name, "cuda:0" is "NVIDIA H200".
std::string DeviceName(const std::string& device);

}  // namespace spotlight::engine
