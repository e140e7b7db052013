// A codec without training: identity transforms, steps spaced evenly in rate, tables of the Gaussian density. For tests
// that need some valid codec, and a fair stand-in for `linear`: entropy-coded scalar quantization.
#pragma once

#include <algorithm>
#include <cmath>

#include "trainer/codec/codec_model.h"
#include "trainer/codec/entropy_fit.h"

namespace nwc::testing {

/// Level i has step `coarsest * 2^(-i / levels_per_bit)`: each octave of the step is a bit per weight.
inline CodecModel synthetic_codec(uint32_t num_levels = 28, double coarsest = 1.6, uint32_t levels_per_bit = 4) {
  CodecModel codec;
  CodecRecord& r = codec.record;
  r.num_levels = num_levels;
  r.synthesis.skip_weight.assign(kChunk * kChunk, 0.0f);
  for (uint32_t i = 0; i < kChunk; ++i) r.synthesis.skip_weight[i * kChunk + i] = 1;
  codec.analysis = r.synthesis;
  const auto below = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  for (uint32_t level = 0; level < num_levels; ++level) {
    const double step = coarsest * std::exp2(-static_cast<double>(level) / levels_per_bit);
    ValueHistogram histogram;
    const int limit = static_cast<int>(std::ceil(8 / step));
    for (int k = -limit; k <= limit; ++k) {
      // Weights have heavier tails than a Gaussian; a little of a wider one keeps them out of the escape.
      const double mass = 0.97 * (below((k + 0.5) * step) - below((k - 0.5) * step)) +
                          0.03 * (below((k + 0.5) * step / 2) - below((k - 0.5) * step / 2));
      histogram.add(static_cast<int16_t>(k), 1e6 * mass);
    }
    r.step.push_back(static_cast<float>(step));
    r.shrink.push_back(0.0f);
    r.rate.push_back(static_cast<float>(histogram.ideal_bits() / histogram.total()));
    r.tables.push_back(fit_table(histogram));
    for (uint32_t i = 0; i < kChunk; ++i) r.context_map.push_back(static_cast<uint16_t>(level));
    codec.lambda.push_back(static_cast<float>(1 / (step * step)));
    codec.entropy.level_scale.push_back(1.0f);
  }
  codec.name = "synthetic";
  r.codec_id = compute_codec_id(r);
  return codec;
}

}  // namespace nwc::testing
