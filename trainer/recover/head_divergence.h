// How far the predictions of one model's last states are from those of another's, and in which direction they come
// closer.
#pragma once

#include "runtime/base/status.h"
#include "runtime/base/thread_pool.h"
#include "trainer/llm/model_ends.h"

namespace nwc {

/// Gain and bias of a final norm, as they are used; of size 0: none.
struct HeadNorm {
  RowVector<float> gain, bias;
};

/// Of the mean of the tokens' KL divergences.
struct HeadGradient {
  RowMatrix<float> states;      ///< [tokens][hidden], at the states
  RowVector<float> gain, bias;  ///< of the norm
};

/// Returns the sum over tokens of KL(p || q), in nats: p is what `wanted_head` says of `wanted_states`, q what `head`
/// says of `states` with `norm` in place of its own gain and bias. *gradient, unless it is null: of q's side.
/// shapes: wanted_states, states [tokens][hidden]. Deterministic: the same result at any number of threads.
/// memory: two times 4 Mi logits a thread. errors: kCorrupt (not finite)
Result<double> head_divergence(const HeadWeights<float>& wanted_head, const RowMatrix<float>& wanted_states,
                               const HeadWeights<float>& head, const HeadNorm& norm, const RowMatrix<float>& states,
                               Runner& runner, HeadGradient* gradient);

}  // namespace nwc
