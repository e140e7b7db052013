// An encoder's embedding from its final states, and the gradient on the way back: the differentiable twin of
// EncoderEnds::pool (runtime/engine/encoder_ends.h).
#pragma once

#include <span>
#include <vector>

#include "runtime/format/model_record.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// Empty where the model has no such part. Gains are as used, not as stored.
template <typename T>
struct PoolingWeights {
  EncoderSpec spec;
  BlockSpec block;  ///< block 0: kind and epsilon of norms; heads and activation of pooling by attention
  std::vector<uint32_t> eos_ids;
  RowVector<T> norm_gain, norm_bias;  ///< of the pooled state alone
  RowMatrix<T> pooler, projection;    ///< [hidden][hidden], [projection][hidden]
  RowVector<T> pooler_bias;
  RowVector<T> probe, qkv_bias, output_bias, pool_norm_gain, pool_norm_bias, up_bias, down_bias;
  RowMatrix<T> qkv, output, up, down;
};

/// *embedding [embedding_size] of one sequence. states [tokens][hidden]; ids of a text, or none.
template <typename T>
void pool_forward(const PoolingWeights<T>& w, const RowMatrix<T>& states, std::span<const uint32_t> ids,
                  RowVector<T>* embedding);
/// *d_states = the gradient at the states, from the one at the embedding.
template <typename T>
void pool_backward(const PoolingWeights<T>& w, const RowMatrix<T>& states, std::span<const uint32_t> ids,
                   const RowVector<T>& d_embedding, RowMatrix<T>* d_states);

}  // namespace nwc
