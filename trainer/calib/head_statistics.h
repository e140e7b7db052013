// The last stage of the forward pass of a calibration: final norm, logits and sketched labels, and the gradient with
// which the backward pass begins.
#pragma once

#include <functional>

#include "runtime/base/status.h"
#include "trainer/calib/pieces.h"
#include "trainer/calib/second_moments.h"
#include "trainer/llm/model_ends.h"

namespace nwc {

struct HeadStatistics {
  // Of this rank's tokens:
  RowMatrix<float> gradient;  ///< [tokens][hidden] of the sketched labels, with respect to the hidden states
  std::vector<float> omega;   ///< [tokens]: of fisher
  // On rank 0, sums over all tokens, and means after finish():
  SecondMoment activation;             ///< E[x x^T], x the normed hidden states: the head's input
  SecondMoment fisher;                 ///< E[omega_t x x^T], omega_t = mean over the vocabulary of s^2 p (1 - p), exact
  std::vector<double> row_importance;  ///< [vocab] E[s^2 p (1 - p)], exact

  void finish(double all_tokens);
};

/// The gradient of log p(y) at the logits is onehot(y) - p, for which a sketch stands (label_sketch.h); its squares'
/// expectation over y is p (1 - p), so that the head's own statistics need neither. A scale and a cap of the logits
/// make that s^2 p (1 - p) at the head's products, s being their slopes. `hidden` is [tokens][hidden] of this rank's
/// pieces, before the final norm. The logits of a bounded number of tokens are in memory at a time. `step` is called
/// with the number of tokens that have just been done. errors: those of step and of Ranks, kCorrupt (logits not finite)
Result<HeadStatistics> head_statistics(const HeadWeights<float>& head, const RowMatrix<float>& hidden,
                                       const DealtPieces& dealt, uint64_t seed, Ranks& ranks, Runner& runner,
                                       const std::function<Status(uint64_t)>& step);
/// Bytes that a piece of a round takes there, beside its hidden states.
uint64_t head_piece_bytes(uint64_t vocab);

}  // namespace nwc
