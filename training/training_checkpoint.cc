#include "training/training_checkpoint.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_writer.h"

namespace spotlight::training {
namespace {

constexpr char kFormat[] = "spotlight-training-1";
constexpr char kIdentityPrefix[] = "identity: ";

absl::Status NotOurs(const std::string& path, const std::string& reason) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", reason));
}

std::string Find(const std::map<std::string, std::string>& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? "" : found->second;
}

// Of two lists of words as long as each other (recipes) the words that differ; else all.
void KeepDifferences(std::string& a, std::string& b) {
  const std::vector<std::string> words_a = absl::StrSplit(a, ' '), words_b = absl::StrSplit(b, ' ');
  if (words_a.size() != words_b.size()) return;
  std::vector<std::string> differing_a, differing_b;
  for (size_t i = 0; i < words_a.size(); ++i) {
    if (words_a[i] == words_b[i]) continue;
    differing_a.push_back(words_a[i]);
    differing_b.push_back(words_b[i]);
  }
  a = absl::StrJoin(differing_a, " ");
  b = absl::StrJoin(differing_b, " ");
}

absl::Status CheckIdentity(const std::string& path, const TrainingIdentity& kept, const TrainingIdentity& wanted) {
  for (const auto& [name, value] : wanted) {
    std::string found = Find(kept, name), ours = value;
    if (found == ours) continue;
    KeepDifferences(found, ours);
    return absl::FailedPreconditionError(absl::StrCat(path, ": is the progress of another run: its ", name, " is ",
                                                      found.empty() ? "not said" : found, ", this run's is ", ours));
  }
  return absl::OkStatus();
}

absl::Status ReadState(const engine::SafetensorsFile& file, std::map<std::string, at::Tensor>& state) {
  for (const std::string& name : file.names()) {
    const auto view = file.Find(name);
    if (!view.ok()) return view.status();
    if (view->dtype != kernels::DType::kF32) return absl::InvalidArgumentError(absl::StrCat(name, " is not F32"));
    at::Tensor tensor = at::empty(view->shape, at::TensorOptions().dtype(at::kFloat));
    std::memcpy(tensor.data_ptr(), view->data, view->num_bytes);
    state[name] = std::move(tensor);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SaveTrainingCheckpoint(const std::string& path, const TrainingCheckpoint& checkpoint) {
  using engine::SafetensorsWriter;
  std::map<std::string, std::string> metadata = {{"format", kFormat},
                                                 {"step", absl::StrCat(checkpoint.step)},
                                                 {"seconds", absl::StrCat(checkpoint.seconds)},
                                                 {"mean_loss", absl::StrCat(checkpoint.mean_loss)}};
  for (const auto& [name, value] : checkpoint.identity) metadata[kIdentityPrefix + name] = value;
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const auto& [name, tensor] : checkpoint.state) {
    if (tensor.scalar_type() != at::kFloat) {
      return absl::InternalError(absl::StrCat("training state ", name, " is not fp32"));
    }
    tensors.push_back({name, kernels::DType::kF32, tensor.sizes().vec()});
  }
  auto writer = SafetensorsWriter::Create(path, tensors, metadata);
  if (!writer.ok()) return writer.status();
  for (const auto& [name, tensor] : checkpoint.state) {
    const at::Tensor values = tensor.contiguous();
    if (absl::Status status = (*writer)->Append(values.data_ptr(), values.nbytes()); !status.ok()) return status;
  }
  return (*writer)->Finish();
}

absl::StatusOr<absl::optional<TrainingCheckpoint>> LoadTrainingCheckpoint(const std::string& path,
                                                                          const TrainingIdentity& identity) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return absl::optional<TrainingCheckpoint>();
  const auto file = engine::SafetensorsFile::Open(path);
  if (!file.ok()) return NotOurs(path, "is not a training checkpoint");
  const std::map<std::string, std::string>& metadata = (*file)->metadata();
  TrainingCheckpoint checkpoint;
  if (Find(metadata, "format") != kFormat || !absl::SimpleAtoi(Find(metadata, "step"), &checkpoint.step) ||
      !absl::SimpleAtod(Find(metadata, "seconds"), &checkpoint.seconds) ||
      !absl::SimpleAtod(Find(metadata, "mean_loss"), &checkpoint.mean_loss)) {
    return NotOurs(path, "is not a training checkpoint");
  }
  for (const auto& [key, value] : metadata) {
    absl::string_view name = key;
    if (absl::ConsumePrefix(&name, kIdentityPrefix)) checkpoint.identity[std::string(name)] = value;
  }
  if (absl::Status status = CheckIdentity(path, checkpoint.identity, identity); !status.ok()) return status;
  if (absl::Status status = ReadState(**file, checkpoint.state); !status.ok()) {
    return NotOurs(path, std::string(status.message()));
  }
  return absl::optional<TrainingCheckpoint>(std::move(checkpoint));
}

}  // namespace spotlight::training
