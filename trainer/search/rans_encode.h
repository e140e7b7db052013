// Interleaved rANS encoding of one tile, the mirror of runtime/codec/tile_decode.h (doc/format.md, sections 5.2
// and 5.3).
#pragma once

#include <array>
#include <span>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/format/codec_record.h"
#include "runtime/format/tensor_record.h"
#include "runtime/format/trellis.h"

namespace nwc {

/// A codec's tables, turned around: from symbol and rank to slot.
class EncodeTables {
 public:
  struct Table {
    uint8_t raw_bits = 0;
    int32_t min = 0;
    uint32_t escape = 0;                      ///< number of the escape symbol; all below are values
    std::array<uint16_t, kMaxAlphabet> freq;  ///< [escape + 1]
    std::array<uint16_t, kMaxAlphabet> start;
    std::array<uint16_t, kProbScale> slot;  ///< [start[s] + rank]: the slot whose lookup gives (s, rank)

    /// The symbol of a value: the escape where no other stands for it.
    uint32_t symbol(int16_t k) const {
      const int32_t s = (int32_t{k} >> raw_bits) - min;
      return s >= 0 && static_cast<uint32_t>(s) < escape ? static_cast<uint32_t>(s) : escape;
    }
  };

  /// `codec` has been validated.
  explicit EncodeTables(const CodecRecord& codec);

  /// context: channel or row class
  const Table& table(uint8_t level, uint32_t context, uint32_t bank) const {
    return tables_[context_map_[(level * kNumContexts + context) * banks_ + bank]];
  }
  ContextKind context_kind() const { return context_kind_; }
  const Trellis* trellis() const { return trellis_; }  ///< null: scalar

 private:
  std::vector<Table> tables_;
  std::vector<uint16_t> context_map_;
  uint32_t banks_;
  ContextKind context_kind_;
  const Trellis* trellis_;
};

/// Appends the tile's payload (states and words) to *payload and returns its size in bytes.
/// shapes: level [width]; row_class [row_blocks * 16], or null where the codec's context is the channel; values
/// [row_blocks][width][16]: reconstruction indices (section 5.6: with a trellis, those its banks allow), as decode_tile
/// gives them back
uint32_t encode_tile(const EncodeTables& tables, const TileGeometry& geometry, const uint8_t* level,
                     const uint8_t* row_class, std::span<const int16_t> values, std::vector<uint8_t>* payload);

/// What the frozen tables charge: bits of a value, raw bits and escape word included.
class TableCosts {
 public:
  explicit TableCosts(const CodecRecord& codec);
  explicit TableCosts(std::span<const FrequencyTable> tables);

  float bits(uint32_t table, int32_t k) const {
    const Costs& c = costs_[table];
    const int32_t s = (k >> c.raw_bits) - c.min;
    return s >= 0 && s < c.count ? c.bits[static_cast<size_t>(s)] : c.escape;
  }
  /// context: channel or row class
  float bits(uint8_t level, uint32_t context, uint32_t bank, int32_t k) const {
    return bits(table_of(level, context, bank), k);
  }
  uint32_t table_of(uint8_t level, uint32_t context, uint32_t bank) const {
    return context_map_[(level * kNumContexts + context) * banks_ + bank];
  }

 private:
  struct Costs {
    uint8_t raw_bits = 0;
    int32_t min = 0, count = 0;
    float escape = 0;
    std::array<float, kMaxAlphabet> bits;
  };
  std::vector<Costs> costs_;
  std::vector<uint16_t> context_map_;
  uint32_t banks_ = 1;
};

}  // namespace nwc
