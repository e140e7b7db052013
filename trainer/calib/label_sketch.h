// What the backward pass of a calibration begins with: a random gradient at the logits whose second moment is the
// Fisher information of the prediction.
#pragma once

#include "trainer/nn/matrix.h"
#include "trainer/nn/random.h"

namespace nwc {

/// One token. p is the softmax of the logits, s their slopes. The logits are replaced by s * u with
///   u = sqrt(p) * e - p (sqrt(p) . e),   e independent random signs (products of vectors by element),
/// so that E[u u^T] = diag(p) - p p^T, as of onehot(y) - p with y drawn from p. A drawn label is hardly a surprise most
/// of the time and a great one now and then, so that a few tokens outweigh all others; a sketch weighs about the same
/// each time.
/// slope: [vocab] s, or empty: all 1. `random` is the token's own stream. Adds s^2 p (1 - p) to row_sum [vocab] and
/// returns its sum. Logits that are not finite give a result that is not.
float sketch_label(Eigen::Ref<RowVector<float>> logits, const RowVector<float>& slope, Random random,
                   RowVector<float>* row_sum);

}  // namespace nwc
