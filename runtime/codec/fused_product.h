// Products with coded matrices, straight from their payload: nothing decoded is written out (doc/architecture.md,
// "Fused product").
#pragma once

#include <memory>
#include <span>

#include "runtime/codec/tensor_decode.h"

namespace nwc {

/// Vectors that a product takes at a time where every weight is decoded or read once for all of them, on every device.
/// Whoever has more decodes the weights first. Shaders know it as kMaxVectors (shaders/common/constants.glsl).
inline constexpr uint32_t kMaxFusedBatch = 8;

/// Multiplies by the coded tensors of one file. Side information and directory of a tensor are loaded by its first
/// product and kept (7 bytes a column, 5 a row with row scales, 24 a tile); memory for intermediate results, too. One
/// call at a time. File and tables must outlive it.
class FusedProduct {
 public:
  FusedProduct(const NwcFile& file, const DecodeTables& tables);
  ~FusedProduct();

  /// y[b][m] = x[b][n] W^T with the coded tensor W [m][n], rows of x and y without gaps, batch 1 to kMaxFusedBatch.
  /// y of row i is within 2^-14 sum_j |x_j| scale_ij (1 + max_k |y_kj|) of the exact product with the scalar decoder's
  /// f32 weights (symbols of doc/format.md, section 5.5; max over the column's chunk); a column of x = 0 adds nothing.
  /// Depends neither on the runner nor on what else is in the batch, but on options.cpu.
  /// errors: those of decode_tensor_rows for the same tensor; kInvalidArgument (batch, x); kBufferTooSmall (y). y
  /// is unspecified after an error. options.progress: in tiles of the slice of rows at work.
  Status multiply(size_t tensor, uint32_t batch, std::span<const float> x, std::span<float> y, Runner& runner,
                  const TensorDecodeOptions& options);

  /// Upper estimate of the memory that products of at most so many vectors with all coded tensors take, tables
  /// included, with so many workers.
  static uint64_t max_bytes(const NwcFile& file, uint32_t num_workers, uint32_t most_vectors = kMaxFusedBatch);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nwc
