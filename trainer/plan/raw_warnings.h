// Warnings about the tensors that are not coded.
#pragma once

#include <string>
#include <vector>

#include "trainer/plan/model_plan.h"

namespace nwc {

/// Sentences that name tensors and reasons: those that hold NaN or infinity; and what is not coded, if that is more
/// than 5 % of the model's bytes. Tensors that are all zero cost nothing and do not count.
std::vector<std::string> raw_warnings(const ModelSource& source, const std::vector<PlannedTensor>& plan);

}  // namespace nwc
