// Sums of weighted outer products over tokens, many matrices at a time.
#pragma once

#include <span>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "trainer/nn/matrix.h"
#include "trainer/parallel/ranks.h"

namespace nwc {

/// How many tokens of equal weight tell as much as these do: (sum w)^2 / sum w^2 (Kish's effective sample size).
struct EffectiveTokens {
  double sum = 0, squares = 0;  ///< of the weights

  void add(double weight) {
    sum += weight;
    squares += weight * weight;
  }
  void add(const EffectiveTokens& other, double factor = 1) {
    sum += factor * other.sum;
    squares += factor * factor * other.squares;
  }
  double count() const { return squares > 0 ? sum * sum / squares : 0; }
};

/// Tokens that are added together: those of one piece of the text. A piece is what ranks and threads are dealt, so that
/// the order of all additions follows from the text alone.
struct MomentPart {
  const RowMatrix<float>* x = nullptr;  ///< [begin + count or more][n]
  Eigen::Index begin = 0, count = 0;    ///< rows of x
  const float* weight = nullptr;        ///< [count], or null: all 1
};

/// sum = sum over tokens t of weight_t * x_t x_t^T. Only the lower triangle is kept until finish().
struct SecondMoment {
  std::vector<MomentPart> parts;  ///< of this rank, in the text's order; read by add_moments only
  RowMatrix<float> sum;           ///< [n][n]
  EffectiveTokens effective;      ///< by their weights; without weights nothing

  void reset(Eigen::Index n) {
    sum.setZero(n, n);
    effective = {};
  }
  /// Divides by the number of tokens and mirrors the triangle.
  void finish(double tokens);
};

/// Adds the parts of all ranks, those of rank 0 first, to the sums that rank 0 has, and leaves the result there. The
/// additions happen in an order that does not depend on threads or ranks: a sum goes from rank to rank, and each adds
/// its own parts. Bands of rows follow one another, so that all ranks are at work. errors: those of Ranks
Status add_moments(std::span<SecondMoment* const> moments, Ranks& ranks, Runner& runner);

}  // namespace nwc
