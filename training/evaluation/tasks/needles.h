// Tasks that plant facts in a text and ask for them. No torch.
#pragma once

#include <cstdint>

#include "training/evaluation/tasks/task.h"

namespace spotlight::training {

TaskExample NeedleTask(int64_t size, uint64_t seed);
TaskExample MultiKeyTask(int64_t size, uint64_t seed);
TaskExample ManyKeysTask(int64_t size, uint64_t seed);
TaskExample MultiValueTask(int64_t size, uint64_t seed);
TaskExample MultiQueryTask(int64_t size, uint64_t seed);

}  // namespace spotlight::training
