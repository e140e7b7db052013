// Writes a quantized tensor as the bytes of its blob (doc/format.md, section 5.1).
#pragma once

#include <vector>

#include "trainer/search/quantize.h"

namespace nwc {

struct TileShape {
  uint32_t rows = 0, cols = 0;
};
/// Even tiles of at most 256 columns. Up to 2^20 weights: at most 65,536 weights a tile, for a tile's states and
/// directory entry (about 100 bytes) weigh most in small tensors; above, about 32,768 (128 x 256), for decoders want
/// many tiles. With a trellis, whose runs end with a tile, higher and narrower ones: 512 rows where there are so many.
TileShape choose_tile_shape(uint64_t m, uint64_t n, bool trellis);

struct EncodedTensor {
  std::vector<uint8_t> side, directory, payload;
  uint32_t crc = 0;  ///< of side information and directory
  uint32_t tile_rows = 0, tile_cols = 0;
  uint64_t num_tiles = 0;
  uint64_t state_bytes = 0;  ///< part of payload: states in which decoders begin; what they have above 2^16 is symbols

  uint64_t size() const { return side.size() + directory.size() + payload.size(); }
  /// Sets the fields of a record that follow from the blob and from the scales.
  void describe(const QuantizedTensor& tensor, TensorRecord* record) const;
};

/// A coded tensor, as the file has it.
struct CodedPart {
  EncodedTensor encoded;
  QuantizedTensor quantized;  ///< without values: what EncodedTensor::describe needs of it
  QuantizeStatistics statistics;
};

/// Parallel over tiles; the bytes do not depend on the runner. errors: kLimit (side information of 4 GiB or more)
Result<EncodedTensor> encode_tensor(const EncodeTables& tables, const QuantizedTensor& tensor, Runner& runner);

/// Side information of section 5.1 before deflating.
std::vector<uint8_t> side_information(const TensorScales& scales, std::span<const uint8_t> level,
                                      std::span<const uint8_t> row_class);

}  // namespace nwc
