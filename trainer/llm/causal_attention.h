// Attention of whole sequences to what came before, with its gradient: grouped queries, windows, capped scores.
#pragma once

#include <span>

#include "runtime/format/block_spec.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// One object per thread. The attention weights of a bounded number of queries are in memory at a time; the backward
/// pass computes them again: kept, they would take heads * length values per token.
template <typename T>
class CausalAttention {
 public:
  /// Sequences lie one after another.
  /// shapes: qkv [tokens][q_width + 2 kv_width], *out [tokens][q_width]; lengths: together `tokens`; sinks: [heads], a
  /// logit that takes part in a head's softmax, or null
  void forward(const BlockSpec& spec, const RowMatrix<T>& qkv, std::span<const uint32_t> lengths, const T* sinks,
               RowMatrix<T>* out);
  /// *dqkv = the gradient at qkv, from dy at what forward made of it; that at the sinks is added to dsinks (or null).
  void backward(const BlockSpec& spec, const RowMatrix<T>& qkv, std::span<const uint32_t> lengths, const T* sinks,
                const RowMatrix<T>& dy, RowMatrix<T>* dqkv, T* dsinks);

 private:
  /// What one head of one sequence works on: queries [first, first + rows) of its tokens, keys [origin, end).
  struct Piece {
    Eigen::Index begin, first, rows, origin;
    Eigen::Index query_col, key_col, value_col;
    Eigen::Index head;
    Eigen::Index end;  ///< of the keys
    Eigen::Index keys() const { return end - origin; }
  };
  template <typename F>
  void for_each_piece(const BlockSpec& spec, std::span<const uint32_t> lengths, F&& f);
  void weigh(const BlockSpec& spec, const RowMatrix<T>& qkv, const Piece& piece, const T* sinks, bool keep_bend);

  RowMatrix<T> p_, dp_, bend_;  ///< [kQueryRows][longest] scratch: weights, their gradient, slopes of the cap
};

extern template class CausalAttention<float>;
extern template class CausalAttention<double>;

}  // namespace nwc
