// Chooses the steps of tensors, columns and rows, and with them how the bits are shared out (doc/architecture.md,
// Importance).
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "trainer/plan/codec_ladder.h"
#include "trainer/plan/step_search.h"

namespace nwc {

/// Steps of the columns of one tensor against each other.
enum class Importance : uint8_t {
  kNone,       ///< in proportion to the columns' deviations: every column gets the same rate
  kFlat,       ///< one step for all
  kPaper,      ///< four levels by quantiles of diag(H): top 0.1 %, 1 % and 10 % (paper, section 3.4)
  kWaterfill,  ///< 1 / sqrt(D_k), D the diagonal of H = U D U^T: reverse water-filling
};
/// Steps of the tensors against each other.
enum class Allocation : uint8_t {
  kNone,     ///< every tensor gets the same rate (but for the embedding and the head, CompressOptions::head_bits)
  kWeights,  ///< one exchange rate between bits and the weights' squared error, for the whole model: equal steps
  kFisher,   ///< one exchange rate between bits and KL divergence for the whole model
};

/// The statistics of a tensor from which its steps are chosen.
struct TensorImportance {
  std::vector<double> diagonal;         ///< [n] D, for kWaterfill; empty: all columns alike
  std::vector<float> hessian_diagonal;  ///< [n], or empty; for kPaper
  std::vector<float> row_importance;    ///< [m], or empty: all rows alike
};

/// Relative steps of a tensor; the whole model is then set finer or coarser by one number.
struct StepProfile {
  uint64_t m = 0, n = 0;
  std::vector<double> column_step;   ///< [n] log2 of the wanted step, up to the common number
  std::vector<double> deviation;     ///< [n] log2 of the root mean square of the column's weights / row_step
  std::vector<double> peak;          ///< [n] log2 of the largest |weight| / row_step of the column
  std::vector<double> row_step;      ///< [m] log2, mean 0, in quarters; or empty
  std::vector<uint8_t> row_class;    ///< [m], or empty
  std::vector<double> class_weight;  ///< [16] share of the rows

  /// Mean over weights of log2(deviation / step) at common number 0.
  double mean_octaves() const;
};

/// w: [m][n], finite. Row steps are used where row_importance is given and its gain exceeds what the codes cost;
/// row classes are used where row steps are, or where the deviations of the rows differ enough. `row_classes` says
/// whether they are allowed.
StepProfile profile_tensor(std::span<const float> w, uint64_t m, uint64_t n, const TensorImportance& importance,
                           Importance by, bool row_classes);

/// Scales and levels at a common number: log2 of what all steps are multiplied by. Levels are numbers of `ladder`.
TensorSteps choose_steps(const StepProfile& profile, const CodecRecord& ladder, double log_step);

/// The common numbers between which choose_steps gives different results; the coarsest leaves no value but zero where
/// the codec takes any step.
StepRange step_range(const StepProfile& profile, const CodecRecord& ladder);

/// Expected bits per weight of the tensor at a common number, from the ladder's rates: to start the search from.
double expected_rate(const StepProfile& profile, const CodecRecord& ladder, double log_step);

}  // namespace nwc
