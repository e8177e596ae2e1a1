// Input: model.safetensors.index.json, beside two shards.
#include "engine/model/checkpoint.h"
#include "tests/engine/model/test_files.h"
#include "tests/fuzz/loader_promises.h"

namespace spotlight::fuzz {
namespace {

std::string SingleNumber(const std::string& tensor) {
  return engine::SafetensorsBytes("{\"" + tensor + R"(": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}})",
                                  "1234");
}

}  // namespace

bool Accepts(absl::string_view input) {
  static const engine::TempFolder folder;
  static const bool has_shards = !folder.Write("1.safetensors", SingleNumber("a")).empty() &&
                                 !folder.Write("2.safetensors", SingleNumber("b")).empty();
  Require(has_shards, "shards can be written");
  folder.Write("model.safetensors.index.json", std::string(input));
  const auto checkpoint = engine::Checkpoint::Open(folder.path());
  if (!checkpoint.ok()) {
    RequireNamesFile(checkpoint.status(), folder.path());
    return false;
  }
  for (const std::string& name : (*checkpoint)->names()) {
    const auto view = (*checkpoint)->Find(name, {});
    Require(view.ok() && view->num_bytes == 4, "a tensor that the index names can be read");
  }
  return true;
}

}  // namespace spotlight::fuzz
