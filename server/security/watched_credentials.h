#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/security/authorizer.h"
#include "server/security/file_watch.h"
#include "server/security/options.h"
#include "server/security/tls.h"

namespace spotlight::server {

// Fills `tls` and `authorizer` from the files that `options` names, and again whenever they change. Both outlive the
// watch, whose files are named "certificate" and "tokens". The error of the first reading names the file.
absl::StatusOr<std::unique_ptr<FileWatch>> WatchCredentials(const SecurityOptions& options, Tls* tls,
                                                            Authorizer* authorizer, FileWatch::Observer observer);

}  // namespace spotlight::server
