#include "trainer/inspect/info.h"

#include <algorithm>

#include "runtime/codec/tensor_decode.h"

namespace nwc {
namespace {

Status inspect_coded(const NwcFile& file, size_t tensor, Decoder* decoder, TensorInfo* info) {
  const TensorRecord& record = file.tensors()[tensor];
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file.load_coded(tensor, false));
  const TileGrid grid = tile_grid(record);
  info->tiles = coded.tiles.size();
  info->tile_rows = record.tile_rows;
  info->tile_cols = record.tile_cols;
  info->side_bytes = record.side_size;
  info->directory_bytes = 8 * info->tiles;
  for (uint64_t t = 0; t < info->tiles; ++t) info->state_bytes += uint64_t{grid.tile(t).lanes()} * 4;
  const uint64_t known = info->side_bytes + info->directory_bytes + info->state_bytes;
  if (known > record.size) return corrupt("the tiles are too small for their states");
  info->word_bytes = record.size - known;
  const auto [low, high] = std::minmax_element(coded.level.begin(), coded.level.end());
  info->lowest_level = *low;
  info->highest_level = *high;
  if (decoder == nullptr) return {};
  std::vector<int16_t> values(static_cast<size_t>(ceil_div(record.rows(), kChunk) * record.cols() * kChunk));
  NWC_TRY(decoder->decode_values(tensor, values));
  info->ideal_bits = ideal_bits(*file.codec(), grid, coded, values);
  return {};
}

}  // namespace

Result<ModelInfo> inspect_model(const NwcFile& file, Decoder* decoder) {
  ModelInfo out;
  out.file_bytes = file.reader().size();
  uint64_t data_bytes = 0;
  for (const SectionEntry& e : file.container().sections()) {
    if (e.type == SectionType::kCodec) out.codec_bytes = e.stored_size;
    if (e.type == SectionType::kData) data_bytes = e.stored_size;
  }
  out.metadata_bytes = out.file_bytes - data_bytes - out.codec_bytes;
  if (file.codec()) out.mac_per_weight = file.codec()->synthesis.mac_per_weight();
  uint64_t at = 0;
  for (size_t t = 0; t < file.tensors().size(); ++t) {
    const TensorRecord& record = file.tensors()[t];
    TensorInfo& info = out.tensors.emplace_back();
    info.name = record.name;
    info.storage = record.storage;
    info.dtype = record.dtype;
    info.shape = record.shape;
    info.group = record.group;
    info.weights = record.num_elements();
    info.stored_bytes = record.size;
    info.padding_bytes = record.offset - at;
    at = record.offset + record.size;
    out.total_weights += info.weights;
    if (record.storage != Storage::kCoded) continue;
    NWC_TRY(inspect_coded(file, t, decoder, &info).with_context("tensor " + record.name));
    out.coded_weights += info.weights;
    out.coded_bytes += info.stored_bytes + info.padding_bytes;
    if (info.ideal_bits >= 0) out.ideal_bits += info.ideal_bits;
  }
  if (out.coded_weights > 0) {
    out.bpw_coded =
        8.0 * static_cast<double>(out.coded_bytes + out.codec_bytes) / static_cast<double>(out.coded_weights);
  }
  if (out.total_weights > 0) {
    out.bpw_file = 8.0 * static_cast<double>(out.file_bytes) / static_cast<double>(out.total_weights);
  }
  return out;
}

ModelInfo inspect_source(const ModelSource& source) {
  ModelInfo out;
  out.file_bytes = source.stored_bytes();
  for (const SourceTensor& tensor : source.tensors()) {
    TensorInfo& info = out.tensors.emplace_back();
    info.name = tensor.name;
    info.dtype = tensor.dtype;
    info.stored_type = tensor.stored_type;
    info.shape = tensor.shape;
    info.weights = tensor.num_elements();
    info.stored_bytes = tensor.stored_bytes;
    out.total_weights += info.weights;
  }
  if (out.total_weights > 0)
    out.bpw_file = 8.0 * static_cast<double>(out.file_bytes) / static_cast<double>(out.total_weights);
  return out;
}

}  // namespace nwc
