#include "trainer/search/error_feedback.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>

#include "trainer/nn/matrix.h"

namespace nwc {

Result<FeedbackFactors> factor_hessian(std::span<const float> hessian, size_t n, double damping) {
  assert(hessian.size() == n * n && n > 0);
  const Eigen::Index size = eigen_index(n);
  // H reversed in both directions is L D L^T with L lower triangular; turned back, L becomes upper triangular.
  Eigen::MatrixXd reversed(size, size);
  double trace = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double v = 0.5 * (double{hessian[i * n + j]} + double{hessian[j * n + i]});
      if (!std::isfinite(v)) return corrupt("Hessian: element " + std::to_string(i * n + j) + " is not finite");
      reversed(size - 1 - eigen_index(i), size - 1 - eigen_index(j)) = v;
    }
    trace += hessian[i * n + i];
  }
  FeedbackFactors out;
  out.upper.assign(n * n, 0.0f);
  out.diagonal.assign(n, 1.0);
  if (!(trace > 0)) {
    for (size_t i = 0; i < n; ++i) out.upper[i * n + i] = 1;
    return out;
  }
  constexpr double kLeastRaise = 1e-6;
  const double mean = trace / static_cast<double>(n);
  const Eigen::VectorXd own = reversed.diagonal();
  // Ends: with a diagonal above the sums of its rows a matrix is positive definite.
  for (out.damping = damping;; out.damping = std::max(10 * out.damping, kLeastRaise)) {
    out.added = out.damping * mean;
    reversed.diagonal() = own.array() + out.added;
    const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> factors(reversed);  // in place: the lower triangle becomes L sqrt(D)
    if (factors.info() == Eigen::Success) break;
    reversed.triangularView<Eigen::StrictlyLower>() = reversed.transpose();  // the upper one is as it was
  }
  for (size_t k = 0; k < n; ++k) {
    const Eigen::Index column = size - 1 - eigen_index(k);
    const double root = reversed(column, column);
    out.diagonal[k] = root * root;
    for (size_t j = 0; j <= k; ++j)
      out.upper[j * n + k] = static_cast<float>(reversed(size - 1 - eigen_index(j), column) / root);
  }
  return out;
}

}  // namespace nwc
