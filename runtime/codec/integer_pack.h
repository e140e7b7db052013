// Integers as the entropy decoder hands them over become a unit of integer_decode.h. Internal to runtime/codec, and
// included by the SIMD files: like lane_kernels.h, it uses nothing else of the library.
#pragma once

#include "runtime/codec/lane_kernels.h"

namespace nwc {

inline constexpr uint32_t kUnitGroups = 8, kUnitGroupBytes = 64;

/// Packs 16 rows of 32 columns into `unit`, which is aligned to 64 and has 64 bytes for each of the 4, 5, 6 or 8 bits.
/// An integer that does not fit becomes the nearest one that does. True: there are some, and bit l of over[r] says
/// whether that of row r and column l is one of them. False: there are none, and `over` is left alone.
using PackUnit = bool (*)(const LaneValues& values, uint32_t bits, uint8_t* unit, uint32_t* over);

/// The best one up to `level` that this build has. All of them give the same bytes.
PackUnit unit_packer(CpuLevel level);

bool pack_unit_scalar(const LaneValues&, uint32_t, uint8_t*, uint32_t*);
#if defined(__x86_64__)
bool pack_unit_avx2(const LaneValues&, uint32_t, uint8_t*, uint32_t*);
bool pack_unit_avx512(const LaneValues&, uint32_t, uint8_t*, uint32_t*);
#elif defined(__aarch64__)
bool pack_unit_neon(const LaneValues&, uint32_t, uint8_t*, uint32_t*);
#endif

}  // namespace nwc
