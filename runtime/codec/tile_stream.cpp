#include "runtime/codec/tile_stream.h"

#include <algorithm>

namespace nwc {

uint32_t contexts_of(ContextKind kind, std::span<const uint8_t> row_class, uint64_t begin, uint64_t end) {
  if (kind == ContextKind::kChannel) return 0xffff;
  uint32_t contexts = 1;  // of rows beyond the last
  for (uint64_t r = begin; r < std::min<uint64_t>(end, row_class.size()); ++r) contexts |= 1u << row_class[r];
  return contexts;
}

void build_column_groups(const DecodeTables& tables, const CodecRecord* codec, const uint8_t* level, const float* scale,
                         uint32_t width, uint32_t contexts, std::vector<ColumnGroup>* out) {
  const size_t slots = (width + kNumLanes - 1) / kNumLanes;
  if (out->capacity() < slots) std::vector<ColumnGroup>().swap(*out);  // never both, nor more than is needed
  out->resize(slots);
  for (uint32_t j = 0; j < out->size(); ++j) {
    ColumnGroup& g = (*out)[j];
    g.slot = j;
    g.active = std::min(kNumLanes, width - j * kNumLanes);
    g.raw_contexts = 0;
    g.any_shrink = false;
    const uint16_t* map[kNumLanes];  // of the lanes' levels
    for (uint32_t l = 0; l < kNumLanes; ++l) {
      const uint32_t column = j * kNumLanes + std::min(l, g.active - 1);  // resting lanes copy the last one
      const uint32_t L = level[column];
      g.level[l] = static_cast<uint8_t>(L);
      g.scale[l] = scale == nullptr ? 1.0f : scale[column];
      g.step[l] = codec == nullptr ? 1.0f : codec->step[L];
      g.shrink[l] = codec == nullptr ? 0.0f : codec->shrink[L];
      g.any_shrink |= g.shrink[l] != 0;
      map[l] = tables.context_map.data() + size_t{L} * kNumContexts * tables.num_banks;
    }
    for (uint32_t c = 0; c < kNumContexts; ++c) {
      if ((contexts >> c & 1u) == 0) continue;
      uint32_t raw = 0;
      for (uint32_t b = 0; b < tables.num_banks; ++b) {
        for (uint32_t l = 0; l < kNumLanes; ++l) {
          const uint16_t table = map[l][c * tables.num_banks + b];
          const uint32_t info = tables.info[table], raw_bits = info >> 16 & 15u;
          g.table[b][c][l] = table;
          g.min[b][c][l] = static_cast<int16_t>(info & 0xffffu);
          g.raw_bits[b][c][l] = static_cast<uint8_t>(raw_bits);
          raw |= raw_bits;
        }
      }
      g.raw_contexts |= uint32_t{raw != 0} << c;
    }
    g.any_raw_bits = g.raw_contexts != 0;
  }
}

Result<MutableBytes> TileStream::prepare(const TileGeometry& geometry, uint64_t size) {
  num_lanes_ = geometry.lanes();
  free_states_ = geometry.free_states;
  const uint64_t groups = uint64_t{geometry.row_blocks()} * geometry.slots();
  if (size > num_lanes_ * sizeof(uint32_t) + groups * kMaxGroupBytes)
    return Status(StatusCode::kChecksum, str_cat("the payload's ", size, " bytes are more than a tile can use"));
  size_ = static_cast<size_t>(size);
  // Never both, nor more than is needed: what a worker takes is planned for.
  if (buffer_.size() < size_ + kPayloadPadding) {
    std::vector<uint8_t>().swap(buffer_);
    buffer_.resize(size_ + kPayloadPadding);
  }
  return MutableBytes(buffer_.data(), size_);
}

Status TileStream::begin() {
  const size_t head = num_lanes_ * sizeof(uint32_t);
  if (size_ < head) {
    return truncated(str_cat("a payload of ", size_, " bytes cannot hold ", num_lanes_, " states"));
  }
  if ((size_ - head) % sizeof(uint16_t) != 0) return corrupt("half a word at the end of the payload");
  for (uint32_t l = 0; l < kNumLanes; ++l) {
    lanes_.state[l] = l < num_lanes_ ? load_le<uint32_t>(buffer_.data() + l * sizeof(uint32_t)) : kRansLow;
    if (lanes_.state[l] < kRansLow && !(free_states_ && size_ == head))
      return corrupt(str_cat("state ", lanes_.state[l], " of lane ", l, " is below 2^16"));
  }
  lanes_.next = buffer_.data() + head;
  lanes_.end = buffer_.data() + size_;
  lanes_.limit = lanes_.end + (free_states_ ? 0 : kPayloadPadding);
  std::fill(std::begin(lanes_.trellis), std::end(lanes_.trellis), uint16_t{0});
  return {};
}

void TileStream::begin_row_block(ContextKind kind, std::span<const uint8_t> row_class, uint64_t row) {
  for (uint32_t c = 0; c < kChunk; ++c) lanes_.context[c] = context_of(kind, row_class, row + c);
}

Status TileStream::finish() const {
  if (ran_out()) return truncated("the payload's words ran out");
  if (lanes_.next != lanes_.end) {
    return Status(StatusCode::kChecksum,
                  str_cat(lanes_.end - lanes_.next, " bytes of the payload are left over after the last symbol"));
  }
  for (uint32_t l = 0; l < num_lanes_ && !free_states_; ++l) {
    if (lanes_.state[l] != kRansLow)
      return Status(StatusCode::kChecksum, str_cat("lane ", l, " does not end in its start state"));
  }
  return {};
}

}  // namespace nwc
