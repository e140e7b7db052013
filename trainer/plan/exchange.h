// What ranks tell each other of the tensors that they own, while the common step is looked for.
#pragma once

#include <vector>

#include "trainer/parallel/ranks.h"
#include "trainer/plan/model_plan.h"
#include "trainer/plan/surveyed_tensor.h"

namespace nwc {

/// Every rank gets what the owners of the coded tensors have found, but for samples. plan, tensors: in the same order.
/// errors: those of Ranks
Status exchange_surveys(Ranks& ranks, std::vector<PlannedTensor>* plan, std::vector<SurveyedTensor>* tensors);

/// Rank 0 gets the parts begin to end - 1 from their owners, with values where that is said.
/// parts: by tensor. errors: those of Ranks
Status gather_samples(Ranks& ranks, const CodecRecord& codec, const std::vector<SurveyedTensor>& tensors, size_t begin,
                      size_t end, bool with_values, std::vector<SampledTensor>* parts);

/// Rank 0's values become those of all ranks. errors: those of Ranks
Status share_values(Ranks& ranks, ValueStatistics* values);

}  // namespace nwc
