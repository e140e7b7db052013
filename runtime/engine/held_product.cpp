#include "runtime/engine/held_product.h"

namespace nwc {

void HeldProduct::multiply(std::span<const HeldView> matrices, uint32_t tokens, const float* x, size_t ldx, float* y,
                           size_t ldy) const {
  IntegerMatrix forms[kMostMatrices];
  size_t count = 0;
  for (size_t i = 0; i < matrices.size();) {
    const HeldMatrix& held = *matrices[i].held;
    if (held.integers) {
      forms[count++] = {&held.form, matrices[i++].data, y};
      y += held.rows;
      continue;
    }
    WeightView floats{matrices[i].data, held.dtype, 0, held.cols};
    do {
      floats.rows += matrices[i].held->rows;
      ++i;
    } while (i < matrices.size() && matrices[i].held->continues(*matrices[i - 1].held));
    matmul(kernels, runner, tokens, x, ldx, floats, y, ldy, scratch);
    y += floats.rows;
  }
  if (count != 0) multiply_integers(level, runner, {forms, count}, tokens, x, ldx, ldy, integers);
}

void HeldProduct::multiply(const HeldWeights& held, const ModelLayout& layout, uint32_t layer,
                           std::span<const PlacedMatrix> matrices, const uint8_t* weights, uint32_t tokens,
                           const float* x, size_t ldx, float* y, size_t ldy) const {
  HeldView views[kMostMatrices];
  size_t count = 0;
  for (const PlacedMatrix& m : matrices) {
    const HeldMatrix& matrix = held.matrix(layout, layer, m);
    views[count++] = {&matrix, weights + matrix.offset};
  }
  multiply({views, count}, tokens, x, ldx, y, ldy);
}

}  // namespace nwc
