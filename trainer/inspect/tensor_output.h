// Decodes the tensors for the files that decompress writes.
#pragma once

#include <functional>

#include "runtime/decoder/decoder.h"

namespace nwc {

/// errors: kInvalidArgument, unless dtype is kF32, kF16 or kBf16
Status check_output_dtype(Dtype dtype);

/// One tensor after another, as they are asked for, with progress in weights.
class TensorOutput {
 public:
  /// All outlive this. total: weights that will be asked for.
  TensorOutput(const NwcFile& file, Decoder& decoder, uint64_t total, const Progress& progress)
      : file_(file), decoder_(decoder), total_(total), progress_(progress) {}

  /// Row-major bytes of the whole tensor in `dtype`, its own or one that check_output_dtype allows.
  /// errors: those of the decoder, kCancelled; kInvalidArgument (size of `out`)
  Status decode(size_t tensor, Dtype dtype, MutableBytes out);
  Status decode(size_t tensor, Dtype dtype, std::vector<uint8_t>* bytes);
  /// The same in bands of whole rows, one in memory at a time, from the top.
  /// errors: those of `use`, too
  Status decode_bands(size_t tensor, Dtype dtype, const std::function<Status(Bytes band)>& use);

 private:
  Status decode_rows(size_t tensor, Dtype dtype, uint64_t row_begin, uint64_t row_end, MutableBytes out);
  Status report(uint64_t weights);

  const NwcFile& file_;
  Decoder& decoder_;
  uint64_t total_;
  const Progress& progress_;
  uint64_t done_ = 0;
};

}  // namespace nwc
