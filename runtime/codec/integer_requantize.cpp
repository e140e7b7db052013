#include "runtime/codec/integer_requantize.h"

#include <algorithm>
#include <cstring>

namespace nwc {
namespace {

constexpr int32_t kMostQ = 127;
constexpr uint32_t kInfinity = 0x7f800000u;  ///< bits of f32
constexpr uint16_t kNoNumber = 0x7fc0u;      ///< bits of bf16
/// 2^23 + 2^22: a number added to it is rounded to an integer, to nearest even, in the lower bits.
constexpr float kRounder = 12582912.0f;

uint32_t bits_of(float v) {
  uint32_t b;
  std::memcpy(&b, &v, sizeof b);
  return b;
}
float float_of(uint32_t b) {
  float v;
  std::memcpy(&v, &b, sizeof v);
  return v;
}

void requantize_row(const float* y, uint32_t columns, int16_t* q, uint16_t* scale) {
  uint32_t largest = 0;  // of the absolute values, whose bits are in the order of the values
  for (uint32_t l = 0; l < columns; ++l) largest = std::max(largest, bits_of(y[l]) & 0x7fffffffu);
  const uint32_t rounded_up = (bits_of(float_of(largest) / kMostQ) + 0xffffu) >> 16;
  *scale = largest >= kInfinity ? kNoNumber : static_cast<uint16_t>(rounded_up);
  std::fill_n(q, kNumLanes, int16_t{0});
  if (largest >= kInfinity || *scale == 0) return;
  const float step = float_of(uint32_t{*scale} << 16);  // divided by, as its inverse may be beyond f32
  for (uint32_t l = 0; l < columns; ++l) {
    const int32_t rounded = static_cast<int32_t>(bits_of(y[l] / step + kRounder) - bits_of(kRounder));
    q[l] = static_cast<int16_t>(std::clamp(rounded, -kMostQ, kMostQ));
  }
}

}  // namespace

void requantize_rows(const LaneWeights& weights, uint32_t columns, LaneValues* q, uint16_t* scales) {
  for (uint32_t r = 0; r < kChunk; ++r) requantize_row(weights.y[r], columns, q->q[r], scales + r);
}

void RequantizedWriter::group(const TileGeometry& g, uint32_t r, uint32_t, const ColumnGroup& group,
                              const LaneValues& values, uint32_t worker) {
  LaneWeights* const weights = workers_->weights(worker);
  LaneValues* const q = workers_->q(worker);
  kernels_.synthesize(net_, group, values, workers_->scratch(worker), weights);
  const uint64_t row_block = g.row / kChunk + r, unit = g.col / kUnitCols + group.slot;
  uint8_t* const block = out_ + row_block * form_.row_block_bytes;
  uint16_t* const scales = reinterpret_cast<uint16_t*>(block + form_.block_scales_at()) + unit * kChunk;
  requantize_rows(*weights, group.active, q, scales);
  uint32_t over[kChunk];  // none is
  pack_(*q, 8, block + unit * unit_bytes(8), over);
}

}  // namespace nwc
