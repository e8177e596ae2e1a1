#include "engine/torch_recorder.h"

#include <c10/util/Exception.h>
#include <stdlib.h>
#include <torch/csrc/autograd/profiler_kineto.h>
#include <unistd.h>

#include <exception>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

using torch::autograd::profiler::ProfilerResult;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

template <class Body>
absl::Status Catch(const Body& body) {
  try {
    return body();
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat("torch's profiler: ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("torch's profiler: ", error.what()));
  }
}

// Kineto writes files only: one in a folder of its own. Not std::filesystem, which crashes in remove_all: libtorch.so
// exports parts of another libstdc++.
class TemporaryFile {
 public:
  TemporaryFile() {
    const char* const folder = getenv("TMPDIR");
    folder_ = absl::StrCat(folder != nullptr && *folder != '\0' ? folder : "/tmp", "/spotlight-profile.XXXXXX");
    if (mkdtemp(folder_.data()) != nullptr) path_ = folder_ + "/trace.json";
  }
  ~TemporaryFile() {
    if (path_.empty()) return;
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }  // empty: its folder could not be made

 private:
  std::string folder_, path_;
};

absl::StatusOr<std::string> ChromeTrace(ProfilerResult* result) {
  const TemporaryFile temporary;
  const std::string& path = temporary.path();
  if (path.empty()) return absl::InternalError("torch's profiler: $TMPDIR, else /tmp, cannot be written");
  if (absl::Status status = Catch([&] { return result->save(path), absl::OkStatus(); }); !status.ok()) return status;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || !text) return absl::InternalError(absl::StrCat("torch's profiler: ", path, " cannot be read"));
  return std::move(text).str();
}

class TorchRecorder : public StepRecorder {
 public:
  explicit TorchRecorder(c10::Device device) : activities_({ActivityType::CPU}) {
    if (device.is_cuda()) activities_.insert(ActivityType::CUDA);
  }

  absl::Status Start() override {
    return Catch([this] {
      const ProfilerConfig config(ProfilerState::KINETO, /*report_input_shapes=*/true);
      torch::autograd::profiler::prepareProfiler(config, activities_);
      torch::autograd::profiler::enableProfiler(config, activities_);
      return absl::OkStatus();
    });
  }

  absl::StatusOr<RenderRecording> Stop() override {
    std::shared_ptr<ProfilerResult> result;  // a RenderRecording can be copied
    absl::Status status = Catch([&result] {
      result = torch::autograd::profiler::disableProfiler();
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return RenderRecording([result] { return ChromeTrace(result.get()); });
  }

 private:
  std::set<ActivityType> activities_;
};

}  // namespace

std::unique_ptr<StepRecorder> MakeTorchRecorder(c10::Device device) {
  return std::make_unique<TorchRecorder>(device);
}

}  // namespace spotlight::engine
