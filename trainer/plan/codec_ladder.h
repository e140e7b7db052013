// Makes the codec of a model file: first a ladder of all levels that the file may use, then, once the model is known,
// the levels in use with tables fitted to it.
#pragma once

#include "trainer/codec/codec_model.h"
#include "trainer/search/quantize.h"

namespace nwc {

struct QuantizerChoice {
  uint32_t trellis_bits = 3;  ///< 0: scalar
  bool row_classes = true;    ///< contexts by row class instead of channel, where the synthesis network is linear
};

/// Returns all levels that a file may use, by rising rate. A linear synthesis takes any step. Its levels are therefore
/// a ladder with four rungs for each octave of step over deviation, and each rung has tables of its own. A network has
/// the levels that it was trained with. With a trellis the steps are half as long, because its banks are two steps
/// apart, and the tables of bank 1 lie halfway between those of bank 0.
CodecModel make_ladder(const CodecModel& codec, const QuantizerChoice& choice);

/// Returns the place on a linear ladder for a ratio of deviation to step, given in octaves. Fractions lie between
/// levels.
double ladder_position(double octaves);
double ladder_octaves(double position);
/// Returns the rungs that a row class adds to the level of the column. A row of larger deviation has more steps in it,
/// as if it were quantized more finely.
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

/// Returns the size of section CODEC in a model file.
uint64_t stored_codec_bytes(const CodecRecord& codec);

}  // namespace nwc
