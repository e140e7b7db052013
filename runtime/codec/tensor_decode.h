// Whole coded tensors, or ranges of rows of them, to f32, f16 or bf16 on the CPU.
#pragma once

#include <memory>
#include <span>

#include "runtime/base/cpu_features.h"
#include "runtime/base/log.h"
#include "runtime/base/thread_pool.h"
#include "runtime/codec/decode_tables.h"
#include "runtime/format/nwc_file.h"

namespace nwc {

struct TensorDecodeOptions {
  CpuLevel cpu = CpuLevel::kScalar;
  bool check_crc = true;  ///< CRC-32 of side information, directory and the tiles touched
  Progress progress;      ///< in tiles
};

struct SynthesisView;  // runtime/codec/lane_kernels.h

/// Decodes the coded tensors of one file, any number of times. What all of them need, the synthesis network as the
/// kernels want it, is made once. Side information and directory stay in memory for the last kKeptRows tensors of which
/// rows of one band of tiles were looked up, so that a further row costs the tiles that hold it and nothing that grows
/// with the tensor; and for the last tensor of which a larger part was asked for, because more of it follows.
/// Thread-safe. File and tables must outlive it.
class TensorDecoder {
 public:
  static constexpr size_t kKeptRows = 4;

  TensorDecoder(const NwcFile& file, const DecodeTables& tables);
  ~TensorDecoder();

  /// Decodes as decode_tensor_rows does.
  Status decode_rows(size_t tensor, uint64_t row_begin, uint64_t row_end, Dtype dtype, MutableBytes out, Runner& runner,
                     const TensorDecodeOptions& options);
  const NwcFile& file() const;
  const DecodeTables& tables() const;
  /// The file has a codec.
  const SynthesisView& synthesis() const;
  /// Side information of a coded tensor. part: more of it will be asked for, so that it stays in memory.
  Result<std::shared_ptr<const CodedTensor>> side(size_t tensor, bool check_crc, bool part);
  /// How often side information has been read. Tests count it.
  uint64_t sides_loaded() const;

  /// Upper estimates for planning. What stays: tables, network, side information of kKeptRows + 1 of these tensors.
  static uint64_t kept_bytes(const NwcFile& file, std::span<const size_t> tensors);
  /// Bytes that decoding one tensor takes beside those, while it lasts.
  static uint64_t call_bytes(const NwcFile& file, size_t tensor, uint32_t num_workers);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Rows [row_begin, row_end) of coded tensor `tensor`, row-major [row_end - row_begin][n] in `dtype` (kF32, kF16,
/// kBf16). Only the tiles that hold these rows are read. Parallel over tiles; the result does not depend on the runner.
/// errors: kInvalidArgument (range, dtype, not coded), kBufferTooSmall, kCorrupt/kTruncated/kChecksum (name the tensor
/// and tile), kCancelled
Status decode_tensor_rows(const NwcFile& file, const DecodeTables& tables, size_t tensor, uint64_t row_begin,
                          uint64_t row_end, Dtype dtype, MutableBytes out, Runner& runner,
                          const TensorDecodeOptions& options);

/// The exact reconstruction indices of the whole tensor: out[(row_block * n + column) * 16 + channel],
/// ceil(m / 16) * n * 16 values. For comparison between backends and for statistics.
Status decode_tensor_values(const NwcFile& file, const DecodeTables& tables, size_t tensor, std::span<int16_t> out,
                            Runner& runner, const TensorDecodeOptions& options);

/// How many bits the tensor's symbols would need with an ideal coder under the frozen tables (raw bits and escape
/// words included), from its reconstruction indices, laid out as decode_tensor_values does. Approximate
/// if a trellis's indices wrapped around, which no encoder makes them do.
double ideal_bits(const CodecRecord& codec, const TileGrid& grid, const CodedTensor& coded,
                  std::span<const int16_t> values);

}  // namespace nwc
