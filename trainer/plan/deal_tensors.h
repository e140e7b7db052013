// Deals the tensors of a model out to ranks: each has one owner, which factors, samples and codes it.
#pragma once

#include <vector>

#include "trainer/plan/model_plan.h"

namespace nwc {

/// Returns the owner of every tensor of the plan; that of those that stay raw is rank 0. In the file's order each goes
/// to the rank that has least work so far, so that all ranks go through the file side by side, and the one that writes
/// it seldom waits. calibrated: coding multiplies by factors of the Hessians, too
std::vector<uint32_t> deal_tensors(const ModelSource& source, const std::vector<PlannedTensor>& plan, uint32_t ranks,
                                   bool calibrated);

}  // namespace nwc
