// Windows are the parts of a coded tensor that go to the device at a time. This file plans them and lays out their
// input; it is plain arithmetic without Vulkan.
#pragma once

#include <span>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "runtime/codec/decode_tables.h"
#include "runtime/format/nwc_file.h"
#include "shaders/common/push_constants.h"

namespace nwc {

/// u32 words of a tile's record in the window's input (shaders/common/constants.glsl).
constexpr uint32_t kTileRecordWords = 6;
constexpr uint32_t kTileFreeStates = 1u << 31;  ///< in a record's number of words
/// Values that the rANS kernels write to a tile's status word.
enum class TileStatus : uint32_t { kOk = 0, kTruncated = 1, kChecksum = 2, kCorrupt = 3, kSubgroupSize = 4 };
/// A status word that no kernel has touched.
constexpr uint32_t kTileUntouched = UINT32_MAX;

/// A rectangle of tiles: whole bands of tile rows, except where one band alone is too large.
struct TileWindow {
  uint64_t band_begin = 0, band_end = 0;
  uint64_t tile_col_begin = 0, tile_col_end = 0;
};

struct WindowLimits {
  uint64_t max_weights = 0;      ///< rows rounded up to 16
  uint64_t max_input_bytes = 0;  ///< of WindowLayout::total_words
  uint64_t max_tiles = 0;
  uint64_t max_bytes = UINT64_MAX;  ///< of memory, the input on host and device and these for each weight:
  uint32_t bytes_per_weight = 0;
};

/// Windows that cover rows [row_begin, row_end), in order of tiles, as few as the limits allow and of about one size. A
/// window holds one tile at least, whatever the limits.
std::vector<TileWindow> plan_windows(const TileGrid& grid, const CodedTensor& coded, uint64_t row_begin,
                                     uint64_t row_end, const WindowLimits& limits);

/// The tables that a tensor uses, the contexts that name them, and what else of the codec and the tensor decides on
/// contexts. A context is per (level, channel or row class, bank) the first bucket of its table and its info word.
struct TensorContexts {
  std::vector<uint32_t> used;     ///< tables, ascending
  std::vector<uint32_t> global;   ///< [K][16][banks][2], buckets counted in the buffer of all tables
  std::vector<uint32_t> compact;  ///< the same, buckets counted in the list `used`
  bool any_raw_bits = false;
  bool row_classes = false;  ///< the second index is the row's class
  uint32_t trellis = 0;      ///< as the rANS kernels take it: on_odd + 65536 * parity, or 0 for the scalar quantizer
  uint32_t num_levels = 0;
  std::vector<float> network;  ///< (step, shrink)[K], skip_weight[16][16] of a linear codec; else empty
};
/// level: [n]; row_class: [m], or empty: all 0.
TensorContexts build_contexts(const DecodeTables& tables, std::span<const uint8_t> level,
                              std::span<const uint8_t> row_class);
/// The same for a tensor, with what the rANS kernels need to make weights (DeviceSynthesis::window_numbers).
TensorContexts build_contexts(const DecodeTables& tables, const CodedTensor& coded, std::vector<float> network);

/// The window's matrix and where its input's parts lie, in u32 words.
struct WindowLayout {
  uint64_t row = 0, col = 0;    ///< of the window's corner in the tensor
  uint64_t rows = 0;            ///< rows of the tensor in the window
  uint32_t width = 0;           ///< columns
  uint32_t blocks = 0;          ///< row blocks
  std::vector<uint64_t> tiles;  ///< their numbers in the tensor
  uint32_t context_at = 0, used_at = 0, tile_at = 0, level_at = 0, scale_at = 0;
  uint32_t row_scale_at = kNoRowScale, row_class_at = kNoRowClass;
  uint32_t network_at = 0;
  std::vector<uint32_t> payload_at;  ///< by tile of the window
  uint64_t total_words = 0;

  uint64_t num_weights() const { return uint64_t{blocks} * kChunk * width; }
};
WindowLayout layout_window(const TileGrid& grid, const CodedTensor& coded, const TileWindow& window,
                           const TensorContexts& contexts);

/// The most bytes of payload that a tile can use.
uint64_t max_payload_bytes(const TileGeometry& geometry);

/// The parts of the input that do not come from payloads, written to `out`. shared_tables: the kernel has the tables in
/// use in shared memory.
void pack_head(const CodedTensor& coded, const WindowLayout& layout, const TensorContexts& contexts, bool shared_tables,
               MutableBytes out);
/// The record of tile i of the window, whose payload's size has been checked.
void pack_tile_record(const WindowLayout& layout, size_t i, const TileGeometry& geometry, uint32_t payload_bytes,
                      MutableBytes out);

/// Writes the window's whole input to `out` (layout.total_words words); payloads are read from the file, in parallel,
/// and checked. Without copy_payloads they are only checked, where the reader views them, and `out` may end before the
/// first. errors: kChecksum, kTruncated, kCorrupt (name tensor and tile), kIo
Status pack_window(const NwcFile& file, size_t tensor, const CodedTensor& coded, const WindowLayout& layout,
                   const TensorContexts& contexts, bool shared_tables, bool check_crc, Runner& runner, MutableBytes out,
                   size_t* first_bad, bool copy_payloads = true);

/// "model.norm.weight, tile 7": where an error is.
std::string tile_context(const TensorRecord& record, uint64_t tile);
/// Decodes a tile with the scalar decoder for its error. The device's status words only say that something is wrong.
Status check_tile(const NwcFile& file, const DecodeTables& tables, size_t tensor, const CodedTensor& coded,
                  uint64_t tile);
/// kDevice: the device says `status` of a tile that the CPU decodes.
Status kernel_failure(const TensorRecord& record, uint64_t tile, uint32_t status);

}  // namespace nwc
