// spotlight-server from its command line to its exit code, with the way to an engine as a parameter.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "engine/load.h"

namespace spotlight::server {

using EngineLoader =
    std::function<absl::StatusOr<engine::LoadedEngine>(const engine::LoadOptions&, engine::StatsObserver*)>;

// 0: stopped by a signal, or printed what was asked for. 1: could not listen or load. 2: a bad command line. A signal
// while the model loads ends the process with 0: at once, or, where `stop_loading` (may be null) says that it has made
// load_engine return soon, after that. It is called in another thread than load_engine.
int RunProgram(int argc, const char* const* argv, const EngineLoader& load_engine,
               const std::function<bool()>& stop_loading = nullptr);

}  // namespace spotlight::server
