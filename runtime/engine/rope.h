// Rotary position embedding, rotate-half (Su et al. 2021, in the layout of Hugging Face Llama models).
#pragma once

#include <vector>

#include "runtime/format/model_record.h"

namespace nwc {

/// Radians per position of each pair of channels (i, i + head_dim / 2): [head_dim / 2], with the model's scaling.
std::vector<double> rope_frequencies(const ModelRecord& model);

/// cosine[i], sine[i] of position * frequencies[i].
void rope_angles(const std::vector<double>& frequencies, uint32_t position, float* cosine, float* sine);

/// Rotates one head in place: x is [2 * half].
inline void rope_rotate(float* x, uint32_t half, const float* cosine, const float* sine) {
  for (uint32_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + half] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace nwc
