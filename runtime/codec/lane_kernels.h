// The unit of work that all CPU decoders share: 16 steps of one tile, which are 16 channels of 32 adjacent columns
// (doc/format.md, section 5.2). Lanes being adjacent columns, SIMD lanes map to contiguous output.
// Internal to runtime/codec. The SIMD files are compiled for their instruction set. They use nothing but this header,
// the templates of tile_decode_{split,simd}.h and synthesis_simd.h, and intrinsics, because an inline function of the
// library that is compiled there could end up in programs for any machine.
#pragma once

#include <cstdint>

#include "runtime/base/cpu_features.h"
#include "runtime/format/constants.h"
#include "runtime/format/dtype.h"

namespace nwc {

struct CodecRecord;
struct DecodeTables;

/// The most bytes that a group can take from the words: 512 symbols with a renormalisation in passes 1 and 2 and an
/// escape word each. Payloads are decoded from a copy that this many bytes follow, plus what a vector load may read
/// past the last word; so kernels do not check, their caller looks after each group whether the words ran out.
inline constexpr uint32_t kMaxGroupBytes = 3 * sizeof(uint16_t) * kChunk * kNumLanes;
inline constexpr uint32_t kPayloadPadding = kMaxGroupBytes + 64;

inline constexpr uint32_t kMaxBanks = 2;

/// Tiles that are decoded at once, to hide the latency of the look-ups.
inline constexpr uint32_t kTilesAtOnce = 4;

/// The tables in the layouts that the kernels look them up in, see DecodeTables, and the trellis (section 5.6).
struct LookupTables {
  const DecodeTables* tables;
  const uint64_t* packed;
  bool trellis;
  uint16_t on_odd, parity;  ///< of Trellis
  bool wide;  ///< positions in `packed` need more than 16 bits: more than 512 tables, which encoders avoid
};

/// Data of the 32 columns of slot j that is the same for all row blocks of all tiles of a column band. A context is a
/// channel or a row class (LaneStates::context); bank 1 is unused without a trellis.
struct alignas(64) ColumnGroup {
  uint16_t table[kMaxBanks][kNumContexts][kNumLanes];    ///< of (level of the column, context) in the bank
  int16_t min[kMaxBanks][kNumContexts][kNumLanes];       ///< of that table
  uint8_t raw_bits[kMaxBanks][kNumContexts][kNumLanes];  ///< of that table
  float step[kNumLanes], shrink[kNumLanes];
  float scale[kNumLanes];  ///< of the column
  uint8_t level[kNumLanes];
  uint32_t slot;          ///< j
  uint32_t band;          ///< below kTilesAtOnce: number of the worker's column band that it belongs to
  uint32_t active;        ///< lanes that take part, 1..32; the others' entries are valid, too
  uint32_t raw_contexts;  ///< bit c: some lane's table of context c has raw bits
  bool any_raw_bits;
  bool any_shrink;
};

/// One tile's decoder between groups.
struct alignas(64) LaneStates {
  uint32_t state[kNumLanes];
  const uint8_t* next;  ///< first word not used
  const uint8_t* end;   ///< of the words
  const uint8_t*
      limit;  ///< renormalisation takes no word from here on: `end` with free states, else what is never reached
  uint8_t context[kChunk];                     ///< of each step of the current row block: below kNumContexts
  alignas(64) uint16_t trellis[kMaxTileCols];  ///< state of each column's trellis
};

/// Reconstruction indices.
struct alignas(64) LaneValues {
  int16_t q[kChunk][kNumLanes];
};
struct alignas(64) LaneWeights {
  float y[kChunk][kNumLanes];
};

/// g_s as the kernels want it: plain pointers; matrices packed [out / 8][in][8].
struct SynthesisView {
  const CodecRecord* codec = nullptr;  ///< what the scalar twin reads
  uint32_t width = 0, num_blocks = 0;
  uint32_t num_levels = 0, level_stride = 0;  ///< stride of level_embedding: num_levels rounded up to 16, 32 or 64
  bool layer_norm = false, silu = false;
  bool identity = false;                 ///< y = z: width is 0 and skip_weight the identity
  const float* input_weight = nullptr;   ///< the network's and, below it, that of fold_first_block()
  const float* input_bias = nullptr;     ///< likewise
  const float* block_weight = nullptr;   ///< [blocks - 1] matrices: of all blocks but the first
  const float* block_bias = nullptr;     ///< [blocks - 1][w], likewise
  const float* norm_gain = nullptr;      ///< [blocks][w]
  const float* norm_bias = nullptr;      ///< [blocks][w]
  const float* output_weight = nullptr;  ///< with output_bias and skip_weight: the network's
  const float* output_bias = nullptr;
  const float* skip_weight = nullptr;
  const float* level_embedding = nullptr;  ///< [blocks][w][level_stride]
};

/// The destination of a group's weights: rows [row_begin, row_end) of the 16, in `active` columns.
struct StoreTarget {
  uint8_t* out = nullptr;  ///< the first column's weight in row row_begin
  uint64_t stride = 0;     ///< bytes from row to row
  uint32_t row_begin = 0, row_end = kChunk;
  const float* row_scale = nullptr;  ///< [16], or null
  Dtype dtype = Dtype::kF32;
};

/// Rows of `width` bytes, adjacent in `from`, `stride` bytes apart in `to`.
struct RowCopy {
  const uint8_t* from = nullptr;
  uint64_t width = 0, rows = 0;
  uint8_t* to = nullptr;
  uint64_t stride = 0;
};

/// The features of a row block of a tile.
struct FeatureBlock {
  const float* features = nullptr;
  uint32_t slots = 0, count = 0;
  const float* factor = nullptr;
  uint64_t factor_stride = 0;
};

/// Sums over columns for a fused product without a network: lane l of a step is added to sum l % kSumLanes of its row.
inline constexpr uint32_t kSumLanes = 16;
struct FeatureSums {
  uint32_t batch = 0;
  const float* factor = nullptr;  ///< [batch][32], of the group's columns: times step
  float* sums = nullptr;          ///< [batch][16][32], of which kSumLanes are used: a FeatureBlock of one slot
};

struct LaneKernels {
  /// 16 steps of each of 1 to kTilesAtOnce tiles. groups: of the tiles, which may be the same.
  void (*decode)(const LookupTables& tables, const ColumnGroup* const* groups, LaneStates* const* tiles,
                 uint32_t num_tiles, LaneValues* out);
  /// g_s but for its last layer: scratch[0..15][lane] = z, and then, with a network, [w][lane] = h after all blocks.
  /// scratch: 64-byte aligned, synthesis_scratch_floats().
  void (*features)(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch);
  /// sums[b][i][lane % kSumLanes] += (q[i][lane] - sign(q[i][lane]) * shrink[lane]) * factor[b][lane]. Slot 0 replaces
  /// the sums. Lanes that rest have a factor of 0.
  void (*accumulate)(const ColumnGroup& group, const LaneValues& q, const FeatureSums& to);
  /// The step of a fused product for a row block: y[16] += matrix [count][16] applied to t[count], with
  /// t[i] = sum over slots and lanes of features[slot][i][lane] * factor[slot][lane].
  /// matrix null: the identity, count 16. A factor of 0 adds nothing, not even times infinity. count: a multiple of 16.
  /// All 64-byte aligned; features without gaps, factor_stride floats from slot to slot.
  void (*product)(const FeatureBlock& block, const float* matrix, float* y);
  /// y = g_s(dequantize(q)), before any scale. scratch as above.
  void (*synthesize)(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                     LaneWeights* y);
  /// Scales, converts, stores.
  void (*store)(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target);
  /// Copies rows past the caches, so that whole lines are not fetched only to be overwritten.
  void (*copy)(const RowCopy& rows);
};

/// z, and h and u of all columns.
inline uint64_t synthesis_scratch_floats(uint32_t width) {
  return (uint64_t{kChunk} + 2 * uint64_t{width}) * kNumLanes;
}

/// The best kernels up to `level` that this build has.
LaneKernels lane_kernels(CpuLevel level);

void decode_group_scalar(const LookupTables&, const ColumnGroup* const*, LaneStates* const*, uint32_t, LaneValues*);
void features_group_scalar(const SynthesisView&, const ColumnGroup&, const LaneValues&, float*);
void accumulate_group_scalar(const ColumnGroup&, const LaneValues&, const FeatureSums&);
void feature_product_scalar(const FeatureBlock&, const float*, float*);
void synthesize_group_scalar(const SynthesisView&, const ColumnGroup&, const LaneValues&, float*, LaneWeights*);
void store_group_scalar(const LaneWeights&, const ColumnGroup&, const StoreTarget&);
void copy_rows_scalar(const RowCopy&);
#if defined(__x86_64__)
void decode_group_avx2(const LookupTables&, const ColumnGroup* const*, LaneStates* const*, uint32_t, LaneValues*);
void features_group_avx2(const SynthesisView&, const ColumnGroup&, const LaneValues&, float*);
void accumulate_group_avx2(const ColumnGroup&, const LaneValues&, const FeatureSums&);
void feature_product_avx2(const FeatureBlock&, const float*, float*);
void synthesize_group_avx2(const SynthesisView&, const ColumnGroup&, const LaneValues&, float*, LaneWeights*);
void store_group_avx2(const LaneWeights&, const ColumnGroup&, const StoreTarget&);
void copy_rows_avx2(const RowCopy&);
void decode_group_avx512(const LookupTables&, const ColumnGroup* const*, LaneStates* const*, uint32_t, LaneValues*);
void features_group_avx512(const SynthesisView&, const ColumnGroup&, const LaneValues&, float*);
void accumulate_group_avx512(const ColumnGroup&, const LaneValues&, const FeatureSums&);
void feature_product_avx512(const FeatureBlock&, const float*, float*);
void synthesize_group_avx512(const SynthesisView&, const ColumnGroup&, const LaneValues&, float*, LaneWeights*);
void store_group_avx512(const LaneWeights&, const ColumnGroup&, const StoreTarget&);
void copy_rows_avx512(const RowCopy&);
#elif defined(__aarch64__)
void decode_group_neon(const LookupTables&, const ColumnGroup* const*, LaneStates* const*, uint32_t, LaneValues*);
void features_group_neon(const SynthesisView&, const ColumnGroup&, const LaneValues&, float*);
void accumulate_group_neon(const ColumnGroup&, const LaneValues&, const FeatureSums&);
void feature_product_neon(const FeatureBlock&, const float*, float*);
void synthesize_group_neon(const SynthesisView&, const ColumnGroup&, const LaneValues&, float*, LaneWeights*);
void store_group_neon(const LaneWeights&, const ColumnGroup&, const StoreTarget&);
#endif

}  // namespace nwc
