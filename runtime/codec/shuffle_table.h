// One alias table as the AVX-512 decoder looks it up: in registers. Internal to runtime/codec.
#pragma once

#include <cstdint>

namespace nwc {

/// 16-bit columns of 128 buckets or symbols, four registers each.
struct alignas(64) ShuffleTable {
  uint16_t bucket[128];  ///< bits 0-5 cutoff, 8-14 alias symbol
  uint16_t rank[128];    ///< of a bucket: offset - cutoff, modulo 2^16
  uint16_t freq[128];    ///< of a symbol: bits 0-12 frequency, 15 is it the escape
};

}  // namespace nwc
