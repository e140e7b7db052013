// Sums of weighted outer products over tokens, many matrices at a time.
#pragma once

#include <span>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "trainer/nn/matrix.h"

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

/// sum = sum over tokens t of weight_t * x_t x_t^T. Only the lower triangle is kept until finish().
struct SecondMoment {
  const RowMatrix<float>* x = nullptr;  ///< [tokens or more][n]; read by add_moments only
  const float* weight = nullptr;        ///< [tokens], or null: all 1
  Eigen::Index count = -1;              ///< tokens of x that are added, where they are other ones than in other sums
  RowMatrix<float> sum;                 ///< [n][n]
  EffectiveTokens effective;            ///< by their weights; without weights nothing

  void reset(Eigen::Index n) {
    sum.setZero(n, n);
    effective = {};
  }
  /// Divides by the number of tokens and mirrors the triangle.
  void finish(double tokens);
};

/// Adds the first `tokens` rows of every x, or as many as it says. The additions happen in an order that does not
/// depend on the threads.
void add_moments(std::span<SecondMoment* const> moments, Eigen::Index tokens, Runner& runner);

}  // namespace nwc
