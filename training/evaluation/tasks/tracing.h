// Tasks that follow references through a text, and tasks that count its words. No torch.
#pragma once

#include <cstdint>

#include "training/evaluation/tasks/task.h"

namespace spotlight::training {

TaskExample VariablesTask(int64_t size, uint64_t seed);
TaskExample CommonWordsTask(int64_t size, uint64_t seed);
TaskExample FrequentWordsTask(int64_t size, uint64_t seed);

}  // namespace spotlight::training
