#include "trainer/search/error_feedback.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "trainer/linalg/tiled_cholesky.h"

namespace nwc {
namespace {

using Span = TiledLower::Span;

/// H and what comes of it. Reversed in both directions it is L D L^T with L lower triangular; turned back, L becomes
/// upper triangular.
class Factorization {
 public:
  Factorization(std::span<const float> hessian, size_t n, Runner& runner)
      : hessian_(hessian), n_(n), runner_(runner), reversed_(n) {}

  /// Factors H + added * I. False: it is not positive definite.
  bool factor(double added) {
    reversed_.for_each_tile(runner_, [&](Span rows, Span columns) {
      for (size_t c = columns.begin; c < columns.end; ++c) {
        for (size_t r = std::max(rows.begin, c); r < rows.end; ++r) {
          const size_t i = n_ - 1 - r, j = n_ - 1 - c;
          const double v = 0.5 * (double{hessian_[i * n_ + j]} + double{hessian_[j * n_ + i]});
          reversed_.at(r, c) = i == j ? v + added : v;
        }
      }
    });
    return reversed_.factor(runner_);
  }

  std::vector<double> diagonal() const {
    std::vector<double> out(n_);
    for (size_t k = 0; k < n_; ++k) out[k] = root(k) * root(k);
    return out;
  }

  /// U, row-major.
  std::vector<float> upper() const {
    std::vector<float> out(n_ * n_, 0.0f);
    reversed_.for_each_tile(runner_, [&](Span rows, Span columns) {
      for (size_t c = columns.begin; c < columns.end; ++c) {
        const size_t k = n_ - 1 - c;
        for (size_t r = std::max(rows.begin, c); r < rows.end; ++r)
          out[(n_ - 1 - r) * n_ + k] = static_cast<float>(reversed_.at(r, c) / root(k));
      }
    });
    return out;
  }

 private:
  double root(size_t k) const { return reversed_.at(n_ - 1 - k, n_ - 1 - k); }

  std::span<const float> hessian_;
  size_t n_;
  Runner& runner_;
  TiledLower reversed_;
};

/// Nothing off the diagonal: columns say nothing of each other, and there is nothing to factor.
bool is_diagonal(std::span<const float> hessian, size_t n, Runner& runner) {
  std::atomic<bool> diagonal = true;
  parallel_for(runner, static_cast<uint32_t>(n), [&](uint32_t i, uint32_t) {
    for (size_t j = 0; j < n && diagonal; ++j) {
      if (j != i && hessian[i * n + j] != 0) diagonal = false;
    }
  });
  return diagonal;
}

/// Index of the first element that is not finite, or n * n.
size_t first_not_finite(std::span<const float> hessian, size_t n, Runner& runner) {
  std::atomic<size_t> first = hessian.size();
  parallel_for(runner, static_cast<uint32_t>(n), [&](uint32_t i, uint32_t) {
    const auto row = hessian.subspan(i * n, n);
    const auto bad = std::find_if(row.begin(), row.end(), [](float v) { return !std::isfinite(v); });
    if (bad == row.end()) return;
    const size_t at = i * n + static_cast<size_t>(bad - row.begin());
    for (size_t seen = first; at < seen && !first.compare_exchange_weak(seen, at);) {
    }
  });
  return first;
}

/// The median of the diagonal. The first token of a sequence, or one input that is always large, can have most of the
/// trace: in proportion to the mean, damping would be more than all that the other directions have. At least a
/// thousandth of the mean, as more than half of the inputs may be dead.
double typical_diagonal(std::span<const float> hessian, size_t n, double trace) {
  std::vector<double> diagonal(n);
  for (size_t i = 0; i < n; ++i) diagonal[i] = hessian[i * n + i];
  const auto middle = diagonal.begin() + static_cast<ptrdiff_t>(n / 2);
  std::nth_element(diagonal.begin(), middle, diagonal.end());
  return std::max(*middle, 1e-3 * trace / static_cast<double>(n));
}

/// Factors what a trace above zero has; scale: what damping is in proportion to; upper: U is wanted, too.
FeedbackFactors factor(std::span<const float> hessian, size_t n, double scale, double damping, bool upper,
                       Runner& runner) {
  constexpr double kLeastRaise = 1e-6;
  Factorization factorization(hessian, n, runner);
  FeedbackFactors out;
  // Ends: with a diagonal above the sums of its rows a matrix is positive definite.
  for (out.damping = damping;; out.damping = std::max(10 * out.damping, kLeastRaise)) {
    out.added = out.damping * scale;
    if (factorization.factor(out.added)) break;
  }
  out.diagonal = factorization.diagonal();
  if (upper) out.upper = factorization.upper();
  return out;
}

}  // namespace

Result<FeedbackFactors> factor_hessian(std::span<const float> hessian, size_t n, double damping, Runner& runner,
                                       bool upper) {
  assert(hessian.size() == n * n && n > 0);
  if (const size_t bad = first_not_finite(hessian, n, runner); bad != hessian.size())
    return corrupt("Hessian: element " + std::to_string(bad) + " is not finite");
  double trace = 0;
  for (size_t i = 0; i < n; ++i) trace += hessian[i * n + i];
  const double scale = trace > 0 ? typical_diagonal(hessian, n, trace) : 0;
  const double least = damping * scale;
  bool positive = trace > 0;
  for (size_t i = 0; i < n; ++i) positive = positive && double{hessian[i * n + i]} + least > 0;
  if (trace > 0 && !(positive && is_diagonal(hessian, n, runner)))
    return factor(hessian, n, scale, damping, upper, runner);
  FeedbackFactors out;
  out.diagonal.assign(n, 1.0);
  if (trace > 0) {
    out.damping = damping;
    out.added = least;
    for (size_t i = 0; i < n; ++i) out.diagonal[i] = double{hessian[i * n + i]} + least;
  }
  if (upper) out.upper.assign(n * n, 0.0f);
  for (size_t i = 0; upper && i < n; ++i) out.upper[i * n + i] = 1;
  return out;
}

}  // namespace nwc
