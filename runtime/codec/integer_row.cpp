// What lies in units, read back: apart from integer_decode.cpp, which is compiled for size.
#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/codec/integer_decode.h"
#include "runtime/codec/integer_pack.h"

namespace nwc {
namespace {

constexpr uint32_t kGroups = kUnitGroups, kGroupBytes = kUnitGroupBytes;

}  // namespace

void unpack_unit(uint32_t bits, const uint8_t* unit, uint8_t* bytes) {
  if (bits == 8) {
    std::memcpy(bytes, unit, kUnitWeights);
    return;
  }
  const uint32_t width = bits - 4, groups = width == 0 ? 1 : 8 / width;
  const uint8_t* upper = unit + 4 * kGroupBytes;
  for (uint32_t g = 0; g < kGroups; ++g) {
    for (uint32_t p = 0; p < kGroupBytes; ++p) {
      const uint32_t lower = unit[kGroupBytes * (g / 2) + p] >> (4 * (g % 2)) & 15u;
      const uint32_t high =
          width == 0 ? 0 : upper[kGroupBytes * (g / groups) + p] >> (width * (g % groups)) & ((1u << width) - 1);
      bytes[kGroupBytes * g + p] = static_cast<uint8_t>(lower | high << 4);
    }
  }
}

void integer_row(const IntegerForm& form, const uint8_t* data, uint64_t row, float* out) {
  const uint64_t block = row / kChunk;
  const uint32_t r = static_cast<uint32_t>(row % kChunk);
  const float* factor = reinterpret_cast<const float*>(data + form.factor_at);
  const float* shrink = reinterpret_cast<const float*>(data + form.shrink_at);
  const float scale = reinterpret_cast<const float*>(data + form.row_scale_at)[row];
  const uint8_t* unit = data + block * form.row_block_bytes;
  const uint16_t* block_scales = reinterpret_cast<const uint16_t*>(unit + form.block_scales_at());
  const uint32_t* begin = reinterpret_cast<const uint32_t*>(data + form.begin_at) + block;
  const Outlier* outlier = reinterpret_cast<const Outlier*>(data + form.outliers_at) + begin[0];
  const Outlier* const end = outlier + (begin[1] - begin[0]);
  for (uint32_t u = 0; u < form.units(); unit += unit_bytes(form.bits[u]), ++u) {
    uint8_t bytes[kUnitWeights];
    unpack_unit(form.bits[u], unit, bytes);
    const uint64_t first = uint64_t{u} * kUnitCols, count = std::min<uint64_t>(kUnitCols, form.cols - first);
    int32_t q[kUnitCols], sign[kUnitCols];
    for (uint32_t l = 0; l < kUnitCols; ++l) {
      q[l] = int32_t{bytes[kGroupBytes * (l / 4) + 4 * r + l % 4]} - integer_bias(form.bits[u]);
      sign[l] = (q[l] > 0) - (q[l] < 0);  // which what is beyond the unit's bits does not change
    }
    // To the integers, so that weights do not depend on the bits of the unit.
    for (; outlier != end && outlier->column() < first + kUnitCols; ++outlier) {
      if (outlier->row() == r) q[outlier->column() - first] += outlier->rest();
    }
    const float own = form.requantized ? bf16_to_f32(block_scales[u * kChunk + r]) * scale : scale;
    for (uint32_t l = 0; l < count; ++l) {
      const float shrunk = form.shrinks ? static_cast<float>(sign[l]) * shrink[first + l] : 0.0f;
      out[first + l] = (static_cast<float>(q[l]) * factor[first + l] - shrunk) * own;
    }
  }
}

}  // namespace nwc
