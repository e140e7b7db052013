#include "runtime/codec/tile_stream.h"

#include <algorithm>
#include <bit>

namespace nwc {
namespace {

// Which lanes of each step use which table.
void list_step_tables(ColumnGroup* g) {
  for (uint32_t c = 0; c < kChunk; ++c) {
    uint32_t num = 0, left = ~0u;
    for (; left != 0 && num < kMaxStepTables; ++num) {
      const uint32_t base = g->base[c][std::countr_zero(left)];
      uint32_t lanes = 0;
      for (uint32_t l = 0; l < kNumLanes; ++l) lanes |= uint32_t{g->base[c][l] == base} << l;
      g->step_table[c][num] = {base / kBuckets, lanes};
      left &= ~lanes;
    }
    g->num_step_tables[c] = static_cast<uint8_t>(left == 0 ? num : 0);
  }
}

}  // namespace

void build_column_groups(const DecodeTables& tables, const CodecRecord* codec, const uint8_t* level, const float* scale,
                         uint32_t width, std::vector<ColumnGroup>* out) {
  out->resize((width + kNumLanes - 1) / kNumLanes);
  for (uint32_t j = 0; j < out->size(); ++j) {
    ColumnGroup& g = (*out)[j];
    g.active = std::min(kNumLanes, width - j * kNumLanes);
    g.any_raw_bits = g.any_shrink = false;
    for (uint32_t l = 0; l < kNumLanes; ++l) {
      const uint32_t column = j * kNumLanes + std::min(l, g.active - 1);  // resting lanes copy the last one
      const uint32_t L = level[column];
      g.level[l] = static_cast<uint8_t>(L);
      g.scale[l] = scale == nullptr ? 1.0f : scale[column];
      g.step[l] = codec == nullptr ? 1.0f : codec->step[L];
      g.shrink[l] = codec == nullptr ? 0.0f : codec->shrink[L];
      g.any_shrink |= g.shrink[l] != 0;
      g.any_raw_bits |= tables.level_raw_bits[L] != 0;
      const uint16_t* map = tables.context_map.data() + size_t{L} * kChunk;
      for (uint32_t c = 0; c < kChunk; ++c) {
        const uint32_t info = tables.info[map[c]];
        g.base[c][l] = map[c] * kBuckets;
        g.min[c][l] = static_cast<int16_t>(info & 0xffffu);
        g.raw_bits[c][l] = static_cast<uint8_t>(info >> 16 & 15u);
      }
    }
    list_step_tables(&g);
  }
}

Result<MutableBytes> TileStream::prepare(const TileGeometry& geometry, uint64_t size) {
  num_lanes_ = geometry.lanes();
  const uint64_t groups = uint64_t{geometry.row_blocks()} * geometry.slots();
  if (size > num_lanes_ * sizeof(uint32_t) + groups * kMaxGroupBytes)
    return Status(StatusCode::kChecksum,
                  "the payload's " + std::to_string(size) + " bytes are more than a tile can use");
  size_ = static_cast<size_t>(size);
  if (buffer_.size() < size_ + kPayloadPadding) buffer_.resize(size_ + kPayloadPadding);
  return MutableBytes(buffer_.data(), size_);
}

Status TileStream::begin() {
  const size_t head = num_lanes_ * sizeof(uint32_t);
  if (size_ < head) {
    return truncated("a payload of " + std::to_string(size_) + " bytes cannot hold " + std::to_string(num_lanes_) +
                     " states");
  }
  if ((size_ - head) % sizeof(uint16_t) != 0) return corrupt("half a word at the end of the payload");
  for (uint32_t l = 0; l < kNumLanes; ++l) {
    lanes_.state[l] = l < num_lanes_ ? load_le<uint32_t>(buffer_.data() + l * sizeof(uint32_t)) : kRansLow;
    if (lanes_.state[l] < kRansLow)
      return corrupt("state " + std::to_string(lanes_.state[l]) + " of lane " + std::to_string(l) + " is below 2^16");
  }
  lanes_.next = buffer_.data() + head;
  lanes_.end = buffer_.data() + size_;
  return {};
}

Status TileStream::finish() const {
  if (ran_out()) return truncated("the payload's words ran out");
  if (lanes_.next != lanes_.end) {
    return Status(StatusCode::kChecksum, std::to_string(lanes_.end - lanes_.next) +
                                             " bytes of the payload are left over after the last symbol");
  }
  for (uint32_t l = 0; l < num_lanes_; ++l) {
    if (lanes_.state[l] != kRansLow)
      return Status(StatusCode::kChecksum, "lane " + std::to_string(l) + " does not end in its start state");
  }
  return {};
}

}  // namespace nwc
