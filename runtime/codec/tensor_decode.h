// Whole coded tensors, or ranges of rows of them, to f32, f16 or bf16 on the CPU.
#pragma once

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
