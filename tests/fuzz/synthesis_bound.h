// The synthesis of one chunk (doc/format.md, section 5.5) in double precision, with a bound that f32 arithmetic, in any
// order, does not exceed in practice. Networks of a fuzzer cancel and grow as no trained one does: the bound tells an
// error of the code from an error that rounding makes in such a network.
#pragma once

#include "runtime/format/codec_record.h"

namespace nwc::fuzz {

struct SynthesisBound {
  double y[kChunk];
  double error[kChunk];  ///< an f32 result is no further away: the format's tolerance, and rounding on top
  double largest = 0;    ///< of all |y|
};

/// q: 16 reconstruction indices. False where intermediate results come near the end of f32's range: nothing is promised
/// there.
bool bound_synthesis(const CodecRecord& codec, const int16_t* q, uint32_t level, SynthesisBound* out);

}  // namespace nwc::fuzz
