// What a benchmark of one table writes: the device, LibTorch's version, and its rows.
#pragma once

#include <string>
#include <vector>

namespace spotlight::benchmarks {

// rows: a JSON object each. A null path: nothing is written. Fails where it cannot be.
void WriteRows(const char* path, const std::vector<std::string>& rows);

}  // namespace spotlight::benchmarks
