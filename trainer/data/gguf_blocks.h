// Decoders of one block of each of ggml's quantized types, and encoders of some. All use the operations of ggml's
// reference in its order, so that the floats are the same: value = scale * integer, and products of scales first.
#pragma once

#include <bit>
#include <cstdint>

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"

namespace nwc::gguf_blocks {

inline float load_f16(const uint8_t* p) { return f16_to_f32(load_le<uint16_t>(p)); }

/// Bits [at, at + count) of an integer.
inline uint32_t bits(uint32_t v, uint32_t at, uint32_t count) { return (v >> at) & ((1u << count) - 1); }

/// Half `i` of a list of 4-bit numbers, the first in the low half of the first byte.
inline uint32_t nibble(const uint8_t* p, uint32_t i) { return bits(p[i / 2], 4 * (i % 2), 4); }

// Blocks of 32 (NVFP4: 64) elements, gguf_blocks_small.cpp.
void decode_q4_0(const uint8_t* block, float* out);
void decode_q4_1(const uint8_t* block, float* out);
void decode_q5_0(const uint8_t* block, float* out);
void decode_q5_1(const uint8_t* block, float* out);
void decode_q8_0(const uint8_t* block, float* out);
void decode_iq4_nl(const uint8_t* block, float* out);
void decode_mxfp4(const uint8_t* block, float* out);
void decode_nvfp4(const uint8_t* block, float* out);

// Blocks of 256 elements, gguf_blocks_k.cpp.
void decode_q2_k(const uint8_t* block, float* out);
void decode_q3_k(const uint8_t* block, float* out);
void decode_q4_k(const uint8_t* block, float* out);
void decode_q5_k(const uint8_t* block, float* out);
void decode_q6_k(const uint8_t* block, float* out);
void decode_iq4_xs(const uint8_t* block, float* out);
void decode_tq1_0(const uint8_t* block, float* out);
void decode_tq2_0(const uint8_t* block, float* out);

// Blocks of 256 elements from lists of vectors, gguf_blocks_grid.cpp.
void decode_iq2_xxs(const uint8_t* block, float* out);
void decode_iq2_xs(const uint8_t* block, float* out);
void decode_iq2_s(const uint8_t* block, float* out);
void decode_iq3_xxs(const uint8_t* block, float* out);
void decode_iq3_s(const uint8_t* block, float* out);
void decode_iq1_s(const uint8_t* block, float* out);
void decode_iq1_m(const uint8_t* block, float* out);

// Encoders, gguf_blocks_encode.cpp.
void encode_q5_0(const float* values, uint8_t* block);
void encode_q5_1(const float* values, uint8_t* block);
void encode_q8_0(const float* values, uint8_t* block);
void encode_q4_k(const float* values, uint8_t* block);
void encode_q5_k(const float* values, uint8_t* block);
void encode_q6_k(const float* values, uint8_t* block);

/// The values of IQ4_NL's and IQ4_XS's codes.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

}  // namespace nwc::gguf_blocks
