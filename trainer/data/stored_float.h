// Floats in the precision in which a tensor of a float type is stored.
#pragma once

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/format/dtype.h"

namespace nwc {

/// Can values be written to a tensor of this type? Not to eight bits: what scales them is in other tensors.
constexpr bool stores_floats(Dtype dtype) { return dtype <= Dtype::kF64; }

/// The value that comes back of an element of this type.
inline float rounded_to(Dtype dtype, float v) {
  if (dtype == Dtype::kF16) return f16_to_f32(f32_to_f16(v));
  if (dtype == Dtype::kBf16) return bf16_to_f32(f32_to_bf16(v));
  return v;
}

/// Writes element i of a tensor's bytes. dtype: one of stores_floats
inline void store_float(Dtype dtype, float v, size_t i, MutableBytes out) {
  switch (dtype) {
    case Dtype::kF16: store_le(out.data() + 2 * i, f32_to_f16(v)); break;
    case Dtype::kBf16: store_le(out.data() + 2 * i, f32_to_bf16(v)); break;
    case Dtype::kF64: store_le(out.data() + 8 * i, double{v}); break;
    default: store_le(out.data() + 4 * i, v);
  }
}

}  // namespace nwc
