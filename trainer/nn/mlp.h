// The codec's network family with its gradients (doc/format.md, section 5.5; paper, section 3.2): linear skip, residual
// blocks, level embeddings multiplied in after each block. One class serves g_a and g_s.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/format/codec_record.h"
#include "trainer/nn/matrix.h"
#include "trainer/nn/random.h"

namespace nwc {

struct MlpShape {
  uint32_t width = 0;   ///< w; 0: there is nothing but skip_weight
  uint32_t blocks = 0;  ///< B
  Activation activation = Activation::kNone;
  bool layer_norm = false;
  uint32_t levels = 1;  ///< K
};

/// Parameters are one flat array in the order of doc/format.md, section 4 item 4.
size_t num_parameters(const MlpShape& shape);
std::vector<float> flatten(const Network& network);
/// flat [num_parameters(shape)]
Network unflatten(const MlpShape& shape, std::span<const float> flat);

/// The linear skip starts as the identity and the nonlinear branch small (output_weight near zero, embeddings one), so
/// that an untrained codec is plain scalar quantization: training starts from the baseline that it has to beat.
void initialize_mlp(const MlpShape& shape, Random* random, std::span<float> flat);

/// T is float in training and double in the gradient tests.
template <typename T>
class Mlp {
 public:
  explicit Mlp(const MlpShape& shape) : shape_(shape) {}
  const MlpShape& shape() const { return shape_; }

  /// Keeps what backward needs; x and level must stay alive until then.
  /// shapes: params [num_parameters]; x and the result [N][16]; level [N], each below K
  const RowMatrix<T>& forward(const T* params, const RowMatrix<T>& x, const uint8_t* level);
  /// Adds dL/dparams to grad; dx = dL/dx unless null.
  /// shapes: dy, dx [N][16]; grad [num_parameters]
  void backward(const T* params, const RowMatrix<T>& dy, T* grad, RowMatrix<T>* dx);

 private:
  struct BlockState {
    RowMatrix<T> in;          ///< [N][w] h before the block
    RowMatrix<T> normalized;  ///< [N][w] LayerNorm: before gain and bias
    RowMatrix<T> pre;         ///< [N][w] argument of the activation
    RowMatrix<T> sum;         ///< [N][w] h + act(u), before the embedding
    RowVector<T> inv_dev;     ///< [N] LayerNorm: 1 / sqrt(var + 1e-5)
  };

  MlpShape shape_;
  const RowMatrix<T>* x_ = nullptr;
  const uint8_t* level_ = nullptr;
  std::vector<BlockState> blocks_;
  RowMatrix<T> last_;  ///< [N][w] h after the last block
  RowMatrix<T> y_;     ///< [N][16]
};

/// Inference straight from a Network; `y` may not alias `x`.
/// shapes: x, y [N][16]; level [N], each below num_levels
void apply_network(const Network& network, uint32_t num_levels, std::span<const float> x, const uint8_t* level,
                   std::span<float> y);

}  // namespace nwc
