// The codec of a model file before and after it has seen the model: levels, quantizer, contexts, tables.
#pragma once

#include "trainer/codec/codec_model.h"
#include "trainer/search/quantize.h"

namespace nwc {

struct QuantizerChoice {
  uint32_t trellis_bits = 3;  ///< 0: scalar
  bool row_classes = true;    ///< contexts by row class instead of channel, where the synthesis network is linear
};

/// All levels that a file may use. A linear synthesis takes any step, so its levels are a ladder of four rungs an
/// octave of step over deviation, each with tables of its own; a network's levels are those it was trained with. With a
/// trellis steps are half as long (its banks are two steps apart) and bank 1 gets tables halfway between bank 0's.
/// Levels by rising rate.
CodecModel make_ladder(const CodecModel& codec, const QuantizerChoice& choice);

/// Octaves of deviation over step at which a level of a linear ladder is right. Fractions: between levels.
double ladder_position(double octaves);
double ladder_octaves(double position);
/// Rungs that a row class adds to the level of the column: rows of more deviation look finer quantized.
int32_t rungs_of_class(uint8_t row_class);
inline constexpr int32_t kRungsPerClass = 2;
inline constexpr uint8_t kMiddleClass = 8;  ///< the class of rows of average deviation
/// Tables for contexts of a linear ladder with row classes depend on level + rungs_of_class alone.
uint32_t rung_of(const CodecRecord& ladder, uint32_t level, uint32_t row_class);

/// The ladder's levels `levels` (ascending) with tables for what was counted, and shrinkage with the least error.
/// `rungs`: for each level of `codec` its number in the ladder. counted: scaled up to the whole model; weight: values
/// of the model for each one that was really counted.
CodecRecord refit(const CodecRecord& codec, std::span<const uint8_t> rungs, const CodecRecord& ladder,
                  const ValueStatistics& counted, double weight);

/// What CODEC takes in a model file.
uint64_t stored_codec_bytes(const CodecRecord& codec);

}  // namespace nwc
