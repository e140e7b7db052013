// LDLQ: the columns that follow compensate the errors of the columns already coded (paper, section 3.4, equation 6).
#pragma once

#include <span>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

/// H = U D U^T, where U is unit upper triangular. The encoder codes column k of W plus the sum over j < k of
/// (W - W^)_j U_jk. Then tr(E H E^T) is the sum over k of D_k |q_k|^2, where q_k is the quantizer's own error in column
/// k.
struct FeedbackFactors {
  std::vector<float> upper;      ///< [n][n], row-major; ones on and zeros below the diagonal
  std::vector<double> diagonal;  ///< [n], positive
};

/// Factors H + damping * mean(diag H) * I, in double.
/// hessian: [n][n], symmetric, not negative definite. An all-zero H gives U = I, D = 1.
/// errors: kCorrupt (not finite, or not positive definite even when damped)
Result<FeedbackFactors> factor_hessian(std::span<const float> hessian, size_t n, double damping);

}  // namespace nwc
