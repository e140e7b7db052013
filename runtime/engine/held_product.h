// Products on the CPU with matrices in the forms in which they are held.
#pragma once

#include "runtime/engine/held_weights.h"
#include "runtime/engine/integer_product.h"
#include "runtime/engine/kernels_cpu.h"

namespace nwc {

/// A matrix of a product, whose outputs follow those of the one before it.
struct HeldView {
  const HeldMatrix* held = nullptr;
  const uint8_t* data = nullptr;
};

struct HeldProduct {
  CpuLevel level = CpuLevel::kScalar;
  const KernelTable& kernels;
  Runner& runner;
  float* scratch = nullptr;     ///< as matmul() wants it
  uint8_t* integers = nullptr;  ///< integer_scratch() bytes, where there are integers

  /// y[tokens][ldy] = x[tokens][ldx] times at most kMostMatrices matrices. Floats of one type without a gap are one.
  void multiply(std::span<const HeldView> matrices, uint32_t tokens, const float* x, size_t ldx, float* y,
                size_t ldy) const;
  /// The same of some of a layer's matrices, or of an expert's, that lie in `weights` as HeldWeights says.
  void multiply(const HeldWeights& held, const ModelLayout& layout, uint32_t layer,
                std::span<const PlacedMatrix> matrices, const uint8_t* weights, uint32_t tokens, const float* x,
                size_t ldx, float* y, size_t ldy) const;
};

}  // namespace nwc
