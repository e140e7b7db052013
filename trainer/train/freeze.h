// Turns trained parameters into a codec that can be shipped: f16 networks, integer tables, shrinkage, nominal rates.
#pragma once

#include <span>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "trainer/codec/codec_model.h"
#include "trainer/train/rd_loss.h"

namespace nwc {

/// Parameters as training has them. flat: see CodecLayout. quantiles [16][3].
struct TrainedParameters {
  MlpShape shape;
  Preset preset = Preset::kOther;
  std::vector<float> flat, quantiles, lambda;
};

/// Networks, steps and entropy parameters of a codec without tables. MLP presets: g_s is rounded to f16 (f32 is kept if
/// a number does not fit), so that everything after this sees what decoders will compute with.
CodecModel make_codec(const TrainedParameters& parameters);

/// The inverse, for fine-tuning. shrink, rates and tables are not parameters.
TrainedParameters take_parameters(const CodecModel& codec);

/// Runs every level over `chunks` with real rounding, and sets shrink, rate, tables, context map and codec id. Counts
/// are mixed with a little of the trained density, which reaches into the tails. Tables are shared between contexts
/// where that costs next to nothing. The result does not depend on the number of workers.
/// shapes: chunks [N][16], N >= 1, unit deviation
void freeze_codec(std::span<const float> chunks, Runner* runner, CodecModel* codec);

/// Tables from the density alone, one per level, no data: makes the codec of a checkpoint valid in no time.
void freeze_from_density(CodecModel* codec);

/// What a frozen codec does to chunks at one level: mean bits per weight under its tables (escapes included) and mean
/// squared error after shrinkage. shapes: chunks [N][16]
struct RateDistortion {
  double bpw = 0, mse = 0;
  /// bpw - 0.5 log2(variance / mse): bits above the Shannon bound of a Gaussian source.
  double gap(double variance = 1) const;
};
RateDistortion measure_codec(const CodecModel& codec, std::span<const float> chunks, uint32_t level);

}  // namespace nwc
