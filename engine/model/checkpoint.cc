#include "engine/model/checkpoint.h"

#include <sys/stat.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_fields.h"
#include "nlohmann/json.hpp"

namespace spotlight::engine {
namespace {

using nlohmann::json;

constexpr int64_t kMaxIndexBytes = 100'000'000;

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

// A plain name in the same folder.
bool IsFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

absl::Status Checkpoint::OpenShards(const std::string& index_path) {
  absl::StatusOr<json> index = ReadJsonObject(index_path, kMaxIndexBytes);
  if (!index.ok()) return index.status();
  const auto error = [&index_path](const std::string& reason) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": ", reason));
  };
  const auto weight_map = index->find("weight_map");
  if (weight_map == index->end() || !weight_map->is_object() || weight_map->empty()) {
    return error("weight_map: must be an object that maps tensor names to files");
  }
  std::map<std::string, size_t> index_of_file;
  for (const auto& [name, file] : weight_map->items()) {
    if (!file.is_string())
      return error(absl::StrCat("weight_map: ", Shown(name), ": must be a file name, is ", Shown(file)));
    const auto file_name = file.get<std::string>();
    if (!IsFileName(file_name)) {
      return error(
          absl::StrCat("weight_map: ", Shown(name), ": must name a file of the same folder, is ", Shown(file)));
    }
    const auto [entry, is_new] = index_of_file.emplace(file_name, files_.size());
    if (is_new) {
      absl::StatusOr<std::unique_ptr<SafetensorsFile>> opened = SafetensorsFile::Open(folder_ + "/" + file_name);
      if (absl::IsNotFound(opened.status())) {
        return absl::NotFoundError(
            absl::StrCat(index_path, ": weight_map: names ", file_name, ", which is not in the folder"));
      }
      if (!opened.ok()) return opened.status();
      files_.push_back(*std::move(opened));
    }
    if (!files_[entry->second]->Has(name)) {
      return error(absl::StrCat("weight_map: puts ", Shown(name), " in ", file_name, ", which does not have it"));
    }
    file_of_[name] = entry->second;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& model_folder) {
  if (!Exists(model_folder)) return absl::NotFoundError(absl::StrCat(model_folder, ": no such folder"));
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(model_folder));
  const std::string single_path = model_folder + "/model.safetensors";
  const std::string index_path = single_path + ".index.json";
  if (Exists(single_path)) {
    absl::StatusOr<std::unique_ptr<SafetensorsFile>> file = SafetensorsFile::Open(single_path);
    if (!file.ok()) return file.status();
    for (const std::string& name : (*file)->names()) checkpoint->file_of_[name] = 0;
    checkpoint->files_.push_back(*std::move(file));
  } else if (Exists(index_path)) {
    if (absl::Status status = checkpoint->OpenShards(index_path); !status.ok()) return status;
  } else {
    return absl::NotFoundError(
        absl::StrCat(model_folder, ": has neither model.safetensors nor model.safetensors.index.json"));
  }
  return checkpoint;
}

absl::StatusOr<TensorView> Checkpoint::Find(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto it = file_of_.find(name);
  if (it == file_of_.end()) return absl::NotFoundError(absl::StrCat(folder_, ": has no tensor ", name));
  const SafetensorsFile& file = *files_[it->second];
  absl::StatusOr<TensorView> view = file.Find(name);
  if (view.ok() && view->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor ", name, " has shape ",
                                                   ShapeText(view->shape), ", the model needs ", ShapeText(shape)));
  }
  return view;
}

bool Checkpoint::Has(const std::string& name) const {
  return file_of_.count(name) > 0;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(file_of_.size());
  for (const auto& entry : file_of_) names.push_back(entry.first);
  return names;
}

void Checkpoint::Release(const TensorView& view) const {
  for (const auto& file : files_) file->Release(view);
}

}  // namespace spotlight::engine
