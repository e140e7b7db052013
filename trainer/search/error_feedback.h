// LDLQ: the columns that follow compensate the errors of the columns already coded (paper, section 3.4, equation 6).
#pragma once

#include <span>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/base/thread_pool.h"

namespace nwc {

/// H = U D U^T, where U is unit upper triangular. The encoder codes column k of W plus the sum over j < k of
/// (W - W^)_j U_jk. Then tr(E H E^T) is the sum over k of D_k |q_k|^2, where q_k is the quantizer's own error in column
/// k.
struct FeedbackFactors {
  std::vector<float> upper;      ///< [n][n], row-major; ones on and zeros below the diagonal. Empty: not asked for
  std::vector<double> diagonal;  ///< [n], positive
  double damping = 0;            ///< the factor that it took
  double added = 0;              ///< damping * median(diag H): what the diagonal of H has above its own
};

/// Factors H + damping * median(diag H) * I, in double (of the median at least a thousandth of the mean counts). Where that is not positive definite (by rounding, or because H
/// is no second moment), the damping is raised tenfold until it is. The same at any number of threads.
/// hessian: [n][n], symmetric. An H without a positive trace gives U = I, D = 1.
/// upper: false saves the memory and time of U where D is all that counts. errors: kCorrupt (not finite)
Result<FeedbackFactors> factor_hessian(std::span<const float> hessian, size_t n, double damping, Runner& runner,
                                       bool upper = true);

}  // namespace nwc
