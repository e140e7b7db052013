// Balle's non-parametric fully factorized density with its gradients (arXiv:1802.01436, appendix 6.1; formulas in
// doc/format_codec.md). It gives the rate in training and smooths the frozen tables' tails; decoding never uses it.
#pragma once

#include <span>
#include <vector>

#include "runtime/format/constants.h"
#include "trainer/nn/matrix.h"
#include "trainer/nn/random.h"

namespace nwc {

/// One channel's share of the flat parameters: [matrix 24][bias 10][factor 9], channel after channel.
struct DensityLayout {
  static constexpr size_t kMatrix = 24, kBias = 10, kFactor = 9;
  static constexpr size_t kPerChannel = kMatrix + kBias + kFactor;
  static constexpr size_t kTotal = kPerChannel * kChunk;
};

/// Starts close to a logistic density of unit deviation: weights are normalised and g_a starts as the identity.
void initialize_density(Random* random, std::span<float> flat);

template <typename T>
class FactorizedDensity {
 public:
  /// bits[n] = -log2(F(t_n + h_n) - F(t_n - h_n)) of one channel.
  /// shapes: params [43] of the channel; t (centre), h (half width), bits [N]
  void forward(const T* params, std::span<const T> t, std::span<const T> h, std::span<T> bits);
  /// Of the last forward, for L = sum weight_n * bits_n: adds dL/dparams to grad [43], writes dL/dt and dL/dh.
  void backward(const T* params, std::span<const T> weight, T* grad, std::span<T> dt, std::span<T> dh);

  /// f(t), the logit of the cumulative distribution. shapes: params [43]; t, f [N]
  static void logits(const T* params, std::span<const T> t, std::span<T> f);
  /// Of one point: f and df/dt.
  static void logit_slope(const T* params, T t, T* f, T* slope);

 private:
  using Array = Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;  // [units][points]
  struct Layer {
    Array in;    ///< values before the layer
    Array tanh;  ///< tanh of the affine map's result
  };
  void run(const T* params, Array* values);

  Layer layer_[4];
  Array upper_lower_;  ///< [1][2 N]: logits at t + h, then at t - h
};

}  // namespace nwc
