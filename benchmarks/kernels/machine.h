// The device and the software that a run's figures belong to.
#pragma once

#include "benchmarks/kernels/report.h"

namespace spotlight::benchmarks {

bool HasDevice();

// Fills the report's device and versions. There must be a device.
void DescribeMachine(Report* report);

}  // namespace spotlight::benchmarks
