// The training objective: rate + lambda * distortion with one lambda per quality level (paper, sections 3.2 and E).
#pragma once

#include <span>
#include <vector>

#include "trainer/nn/factorized_density.h"
#include "trainer/nn/mlp.h"

namespace nwc {

/// Where the parts lie in a codec's flat parameter array: g_a, g_s, densities, log step [K], log level_scale [K].
struct CodecLayout {
  MlpShape shape;  ///< of g_a and g_s
  size_t synthesis = 0, density = 0, log_step = 0, log_scale = 0, total = 0;

  explicit CodecLayout(const MlpShape& mlp);
};

/// lambda[l]: bits per weight that one unit of mean squared error is worth; weight[l]: the level's share of the loss.
struct LevelObjective {
  std::vector<float> lambda, weight;  ///< [K]
};

/// Per-level sums over chunks of a batch.
struct LossSums {
  std::vector<double> chunks, bits, squared_error;  ///< [K]; bits and error summed over the chunks' 16 values
  explicit LossSums(uint32_t levels = 0) : chunks(levels), bits(levels), squared_error(levels) {}
  void add(const LossSums& other);
};

/// What stands for rounding where a gradient is needed.
enum class Proxy : uint8_t {
  kNoise,     ///< y + noise * step, for rate and distortion
  kMixed,     ///< noise for the rate; for the distortion real rounding, gradients passing straight through it (Minnen
              ///< and Singh 2020, arXiv:2007.08739)
  kRounding,  ///< real rounding for both: validation
};

/// A batch, or a shard of one.
template <typename T>
struct LossBatch {
  RowMatrix<T> x;              ///< [N][16], unit deviation
  std::vector<uint8_t> level;  ///< [N]
  RowMatrix<T> noise;          ///< [N][16] in steps, uniform in (-1/2, 1/2); kRounding: not read
  Proxy proxy = Proxy::kNoise;
};

template <typename T>
class RdLoss {
 public:
  RdLoss(const MlpShape& shape, LevelObjective objective);
  const CodecLayout& layout() const { return layout_; }

  /// L = scale * sum over chunks of weight[l] * (bits / 16 + lambda[l] * squared error / 16); with scale = 1 / batch
  /// it is the mean. Adds dL/dparams to grad unless it is empty.
  /// shapes: params, grad [layout().total]
  T evaluate(std::span<const T> params, const LossBatch<T>& batch, T scale, std::span<T> grad, LossSums* sums);

 private:
  CodecLayout layout_;
  LevelObjective objective_;
  Mlp<T> analysis_, synthesis_;
  FactorizedDensity<T> density_;
  RowMatrix<T> rounding_;         ///< [N][16] what rounding adds, in steps
  RowMatrix<T> noisy_, decoded_;  ///< [N][16] latents as the rate and as the distortion see them
  RowMatrix<T> dy_, error_;
  std::vector<T> centre_, half_, bits_, weight_, d_centre_, d_half_;
};

}  // namespace nwc
