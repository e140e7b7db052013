// What is known of a tensor before it is coded.
#pragma once

#include <memory>
#include <vector>

#include "runtime/base/checked.h"
#include "trainer/plan/step_plan.h"
#include "trainer/search/quantize.h"

namespace nwc {

/// A tensor to be coded.
struct SurveyedTensor {
  size_t source = 0;  ///< index in the ModelSource
  uint64_t m = 0, n = 0;
  uint32_t tile_rows = 0;
  StepProfile profile;
  double log_step = 0;                ///< of this tensor against the model's common step
  std::vector<float> row_importance;  ///< [m], or empty
  double damping = 0;                 ///< CodingChoices::damping, or what it took to factor the Hessian
  uint32_t owner = 0;                 ///< the rank that has its sample and codes it
  uint32_t group = 0;                 ///< of tensors that may stand for each other (choose_samples)
  // Some rows of it, in place of all; none: others of the group stand for it.
  std::vector<float> sample;          ///< [sample_rows][n], at its owner
  std::vector<uint64_t> sample_rows;  ///< multiples of 16 and what follows
};

/// Feedback ties the columns of a band of rows together, so that a tensor keeps only as many threads busy as it has
/// bands. Returns how many such tensors are quantized side by side: 1 or the number of workers.
inline uint32_t quantized_together(const SurveyedTensor& t, bool feedback, uint32_t workers) {
  return !feedback || ceil_div(t.m, uint64_t{t.tile_rows}) >= 2 * workers ? 1 : workers;
}

/// What coding a tensor's sample has shown.
struct SampledTensor {
  double bytes = 0, weighted_error = 0;     ///< of the whole tensor
  double scale = 1;                         ///< its rows over the sample's
  std::unique_ptr<ValueStatistics> values;  ///< of the sample
};

}  // namespace nwc
