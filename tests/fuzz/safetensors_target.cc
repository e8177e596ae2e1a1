// Input: a safetensors file. What is accepted must be readable to the last byte.
#include <algorithm>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/safetensors_values.h"
#include "tests/engine/model/test_files.h"
#include "tests/fuzz/loader_promises.h"

namespace spotlight::fuzz {
namespace {

void ReadAll(const engine::SafetensorsFile& file, const std::string& name) {
  const auto view = file.Find(name);
  if (!view.ok()) {
    const auto integers = file.FindInt8(name);
    if (integers.ok()) Require(std::count(integers->data, integers->data + integers->num_elements, 0) >= 0, "");
    return;
  }
  std::vector<float> values(engine::NumElements(*view));
  Require(values.size() * kernels::SizeOf(view->dtype) == view->num_bytes, "a tensor's shape covers its bytes");
  engine::ReadFloats(*view, 0, static_cast<int64_t>(values.size()), values.data());
  file.Release(*view);
}

}  // namespace

bool Accepts(absl::string_view input) {
  static const engine::TempFolder folder;
  folder.Write("model.safetensors", std::string(input));
  const auto checkpoint = engine::Checkpoint::Open(folder.path());
  if (!checkpoint.ok()) {
    RequireNamesFile(checkpoint.status(), folder.path());
    return false;
  }
  const auto file = engine::SafetensorsFile::Open(folder.File("model.safetensors"));
  Require(file.ok() && (*file)->names() == (*checkpoint)->names(), "a checkpoint has its file's tensors");
  for (const std::string& name : (*file)->names()) {
    ReadAll(**file, name);
    const auto found = (*checkpoint)->Find(name, {2, 3});
    if (!found.ok()) RequireNamesFile(found.status(), folder.path());
  }
  return true;
}

}  // namespace spotlight::fuzz
