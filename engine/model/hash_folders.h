// Where hash files lie that are in no model's folder.
#pragma once

#include <string>
#include <vector>

namespace spotlight::engine {

// Of this user: $XDG_CACHE_HOME/spotlight/hashes, or ~/.cache/spotlight/hashes. May not exist.
std::string UserHashFolder();

// Those that came with the program and exist: hashes/ beside the folder of a bundle's programs, training/hashes among a
// built program's runfiles.
std::vector<std::string> ShippedHashFolders();

// What --hash auto searches after the model's own folder, in this order: `first`, the shipped ones, the user's.
std::vector<std::string> HashFolders(const std::vector<std::string>& first);

}  // namespace spotlight::engine
