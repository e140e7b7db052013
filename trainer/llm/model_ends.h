// What comes before the first layer and after the last one: embeddings; final norm, logits and their gradient.
#pragma once

#include <span>

#include "runtime/format/model_record.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// *out = what enters the first layer. Sequences lie one after another, each starting at position 0.
/// shapes: table [vocab][hidden]; positions [position_rows][hidden], empty without them; lengths: together all tokens
void embed_tokens(const EndsSpec& ends, const RowMatrix<float>& table, const RowMatrix<float>& positions,
                  std::span<const uint32_t> tokens, std::span<const uint32_t> lengths, RowMatrix<float>* out);

template <typename T>
struct HeadWeights {
  NormKind norm = NormKind::kRms;
  T epsilon = 0;
  RowVector<T> gain, norm_bias;  ///< [hidden] of the final norm, as used; no gain: no final norm
  RowMatrix<T> matrix;           ///< [vocab][hidden]
  RowVector<T> bias;             ///< [vocab], or empty
  T logit_scale = 1;
  T logit_softcap = 0;

  /// Does it take more than a product to get from normed states to logits?
  bool bends() const { return logit_scale != 1 || logit_softcap != 0; }
};

/// The head's input. shapes: hidden, *normed [tokens][hidden]
template <typename T>
void head_norm(const HeadWeights<T>& head, const RowMatrix<T>& hidden, RowMatrix<T>* normed);
/// *d_hidden = the gradient at hidden, from d_normed at what head_norm made of it.
template <typename T>
void head_norm_backward(const HeadWeights<T>& head, const RowMatrix<T>& hidden, const RowMatrix<T>& d_normed,
                        RowMatrix<T>* d_hidden);
/// *logits = what the model says. shapes: normed [tokens][hidden], *logits [tokens][vocab]
template <typename T>
void head_logits(const HeadWeights<T>& head, const RowMatrix<T>& normed, RowMatrix<T>* logits);
/// Derivative of a logit by the product that it comes from.
template <typename T>
T logit_slope(const HeadWeights<T>& head, T logit) {
  const T share = head.logit_softcap != 0 ? logit / head.logit_softcap : T(0);
  return head.logit_scale * (T(1) - share * share);
}

}  // namespace nwc
