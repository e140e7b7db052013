// Reports how many bytes each part of a model file takes.
#pragma once

#include <string>
#include <vector>

#include "runtime/decoder/decoder.h"
#include "trainer/data/model_source.h"

namespace nwc {

struct TensorInfo {
  std::string name;
  Storage storage = Storage::kRaw;
  Dtype dtype = Dtype::kF32;
  std::string stored_type;  ///< of an uncompressed model, as its file names it: "BF16", "Q4_1"; else empty
  std::vector<uint64_t> shape;
  uint32_t group = 0;
  uint64_t weights = 0;
  uint64_t stored_bytes = 0, padding_bytes = 0;
  // Coded tensors:
  uint64_t side_bytes = 0, directory_bytes = 0, state_bytes = 0, word_bytes = 0;  ///< add up to stored_bytes
  uint64_t tiles = 0;
  uint32_t tile_rows = 0, tile_cols = 0;
  uint8_t lowest_level = 0, highest_level = 0;
  double ideal_bits = -1;  ///< of the values under the file's tables; negative: not measured
};

struct ModelInfo {
  std::vector<TensorInfo> tensors;
  uint64_t file_bytes = 0;
  uint64_t codec_bytes = 0;     ///< CODEC as stored
  uint64_t metadata_bytes = 0;  ///< everything else outside DATA
  uint64_t coded_weights = 0, total_weights = 0, coded_bytes = 0;
  double bpw_coded = 0, bpw_file = 0;  ///< as in CompressReport
  double ideal_bits = 0;               ///< sum over coded tensors, where measured
  double mac_per_weight = 0;           ///< of the synthesis network
};

/// file_bytes = codec_bytes + metadata_bytes + all tensors' stored_bytes and padding_bytes, to the byte.
/// decoder: to measure the entropy of every coded tensor, which decodes the whole model; null: only sizes.
Result<ModelInfo> inspect_model(const NwcFile& file, Decoder* decoder);
/// Of an uncompressed model, as its own files store it: all of its bytes are the tensors'.
ModelInfo inspect_source(const ModelSource& source);

}  // namespace nwc
