// Packs a step's plan into the arrays that the model runner copies to its device.
#pragma once

#include "engine/batch.h"
#include "engine/step_plan.h"

namespace spotlight::engine {

// Overwrites `batch`, keeping its memory: a batch is filled every step. The sample rows point into the plan's
// sequences. batch->samples are the plan's rows that sample, in order. time_retrieval is left false, quality empty.
void BuildBatch(const StepPlan& plan, Batch* batch);

}  // namespace spotlight::engine
