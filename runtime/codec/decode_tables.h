// Alias tables built from a codec's frequencies (doc/format.md, section 5.4), in the layout that CPU and GPU share.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/format/codec_record.h"
#include "runtime/format/trellis.h"

namespace nwc {

/// One bucket, 8 bytes. Two 32-bit loads that do not depend on each other give everything for both sides of the cutoff.
struct AliasBucket {
  /// bits 0-11 freq - 1 of the bucket's own symbol; 12-17 cutoff (0..32); 18-24 alias symbol.
  uint32_t own;
  /// bits 0-11 freq - 1 of the alias symbol; 12-23 (offset - cutoff) mod 4096.
  uint32_t other;
};
constexpr uint32_t kBuckets = 128;
constexpr uint32_t kBucketSlotsLog2 = 5;

struct AliasTable {
  AliasBucket bucket[kBuckets];
};

/// freq: n entries (1..128) that add up to 4096, as a validated CodecRecord guarantees.
AliasTable build_alias_table(const std::vector<uint16_t>& freq);

/// The result of a lookup, in readable form. SIMD twins inline the lookup.
struct AliasHit {
  uint32_t symbol, freq, rank;
};
AliasHit lookup(const AliasTable& table, uint32_t slot);

/// Everything that decoding needs from a codec, ready to use.
struct DecodeTables {
  std::vector<AliasTable> alias;      ///< [T]
  std::vector<uint32_t> info;         ///< [T]: bits 0-15 min (as u16), 16-19 raw_bits, 24-31 n - 1 (the escape symbol)
  std::vector<uint16_t> context_map;  ///< [K][16][num_banks]
  uint32_t num_levels = 0;
  uint32_t num_banks = 1;
  ContextKind context_kind = ContextKind::kChannel;
  const Trellis* trellis = nullptr;  ///< null: scalar quantizer
  /// [T * 128]: the same buckets as the CPU's SIMD decoders want them, so that one 64-bit load and few operations do.
  /// Fields of 16 bits: frequency of the own symbol and of the alias (bit 15: it is the escape); offset - cutoff,
  /// modulo 2^16; bits 0-5 cutoff, 8-14 alias symbol.
  std::vector<uint64_t> packed;
};
DecodeTables build_decode_tables(const CodecRecord& codec);
/// The most bytes that the tables take, including while they are made.
uint64_t decode_tables_bytes(const CodecRecord& codec);

}  // namespace nwc
