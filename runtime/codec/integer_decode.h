// Coded tensors to integers (integer_form.h).
//
// A unit has, for group g of four columns, row r and column c of the group, the integer with its bias at byte
// 64 g + 4 r + c: 8 groups of 64 bytes. With 8 bits that is how it lies in memory. Of fewer, the lower four bits of
// groups 2 i and 2 i + 1 share the bytes of block i (the even group has the lower half), and behind the four blocks
// come the upper bits: for 5 bits one block, bit g of each byte is group g's; for 6 bits two blocks, of which number g
// / 4 has group g's two bits at 2 (g mod 4). The block scale of row r in unit u of a row block is number 16 u + r.
#pragma once

#include "runtime/base/bytes.h"
#include "runtime/base/thread_pool.h"
#include "runtime/codec/integer_form.h"
#include "runtime/codec/tensor_decode.h"

namespace nwc {

/// Rows [row_begin, row_end) of a coded tensor as integers.
struct IntegerRequest {
  size_t tensor = 0;
  const IntegerForm* form = nullptr;
  /// row_begin: a multiple of two tiles' rows, and so is row_end unless it is the last. Parts of a tensor are decoded
  /// in order, and the first one fills in factors and scales.
  uint64_t row_begin = 0, row_end = 0;
  MutableBytes out;  ///< form->bytes from a multiple of 64 on, for any part
  bool check_crc = true;
};

/// Decodes different tensors together, so that all workers have something to do until the end. The result depends
/// neither on the runner nor on the parts. Side information of a tensor that is decoded in parts is read once.
/// errors: those of decode_tensor_rows, of the first request that has one; kLimit (more outliers than the form has room
/// for, or larger ones than kMostRestOfRow)
Status decode_integers(TensorDecoder& decoder, std::span<const IntegerRequest> requests, Runner& runner,
                       const TensorDecodeOptions& options);

/// Upper estimate of what decode_integers takes for outliers while it works. tile_cols: of the tensor.
uint64_t integer_decode_bytes(const IntegerForm& form, uint64_t tile_cols, uint32_t num_workers);

/// Scales of rows, factors and shrinkage of a coded tensor as they lie in its form from row_scale_at up to begin_at, to
/// out. errors: those of load_coded
Status integer_scales(const NwcFile& file, size_t tensor, const IntegerForm& form, bool check_crc, uint8_t* out);

/// One row as floating-point numbers, out [form.cols]: row_scale * factor * q, times the block scale if there are some.
/// data: what decode_integers wrote.
void integer_row(const IntegerForm& form, const uint8_t* data, uint64_t row, float* out);

/// The integers of a unit with their bias, bytes[512] in the order above. The readable twin of what the kernels do.
void unpack_unit(uint32_t bits, const uint8_t* unit, uint8_t* bytes);

}  // namespace nwc
