#include "runtime/format/tensor_record.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_set>

#include "runtime/base/str_cat.h"
#include "runtime/format/utf8_check.h"

namespace nwc {
namespace {

constexpr uint8_t kRowScales = 1, kRowClasses = 2;
constexpr uint8_t kSplitShift = 2, kSplitMask = 7 << kSplitShift, kFreeStates = 32;
constexpr size_t kMinRecordBytes = 2 + 1 + 8 + 8 + 8 + 4 + 4 + 4 + 8;  // one-byte name, rank 0

// Product of the dimensions; false above kMaxTensorElements. A dimension of 0 gives 0, however large the others are.
bool count_elements(const std::vector<uint64_t>& shape, uint64_t* out) {
  *out = 1;
  if (std::find(shape.begin(), shape.end(), 0u) != shape.end()) {
    *out = 0;
    return true;
  }
  for (const uint64_t d : shape) {
    if (!checked_mul(*out, d, out) || *out > kMaxTensorElements) return false;
  }
  return true;
}

Status check_coded(const TensorRecord& r, const std::string& who) {
  if (r.dtype > Dtype::kBf16) return corrupt(str_cat(who, ".dtype: a coded tensor is F32, F16 or BF16"));
  if (r.shape.empty()) return corrupt(str_cat(who, ".rank: a coded tensor has a dimension"));
  if (r.num_elements() == 0) return corrupt(str_cat(who, ".shape: a coded tensor has no dimension of 0"));
  if (r.split > 1 && r.split >= r.shape.size())
    return corrupt(str_cat(who, ".flags: ", r.split, " dimensions as rows, the tensor has ", r.shape.size()));
  if (r.rows() > kMaxDimension) return limit_error(str_cat(who, ": more than 2^31 - 1 rows"));
  if (r.tile_rows == 0 || r.tile_rows % kChunk != 0 || r.tile_rows > kMaxTileRows)
    return corrupt(str_cat(who, ".tile_rows: ", r.tile_rows, " is not a multiple of 16 up to 4096"));
  if (r.tile_cols == 0 || r.tile_cols % kNumLanes != 0 || r.tile_cols > kMaxTileCols)
    return corrupt(str_cat(who, ".tile_cols: ", r.tile_cols, " is not a multiple of 32 up to 512"));
  if (r.tile_rows * r.tile_cols > kMaxTileWeights)
    return limit_error(str_cat(who, ": more than 65536 weights in a tile"));
  if (!(r.scale_base > 0) || !std::isfinite(r.scale_base))
    return corrupt(str_cat(who, ".base: not positive and finite"));
  if (r.row_scales ? !(r.row_scale_base > 0) || !std::isfinite(r.row_scale_base)
                   : std::bit_cast<uint32_t>(r.row_scale_base) != 0)
    return corrupt(str_cat(who, ".row_base: must be positive and finite with row scales, 0 without"));
  // At most 2^40 weights in tiles of at least one weight: 8 * tiles cannot overflow.
  const uint64_t directory = 8 * tile_grid(r).num_tiles();
  if (r.side_size > r.size || directory > r.size - r.side_size)
    return corrupt(str_cat(who, ".size: ", r.size, " bytes cannot hold side information and directory"));
  return {};
}

Status check_raw(const TensorRecord& r, const std::string& who) {
  if (r.row_scales || r.row_classes || r.split != 1 || r.free_states)
    return corrupt(str_cat(who, ".flags: row scales, row classes, a split or free states without being coded"));
  if (r.num_elements() * dtype_bits(r.dtype) % 8 != 0)
    return corrupt(
        str_cat(who, ".shape: ", r.num_elements(), " elements of ", dtype_name(r.dtype), " do not fill whole bytes"));
  if (r.side_size != 0 || r.tile_rows != 0 || r.tile_cols != 0 || std::bit_cast<uint32_t>(r.scale_base) != 0 ||
      std::bit_cast<uint32_t>(r.row_scale_base) != 0)
    return corrupt(str_cat(who, ": fields of coded tensors must be 0 in a raw one"));
  if (r.raw_bytes() > kMaxRawBytes) return limit_error(str_cat(who, ": more than 2^40 bytes"));
  if (r.storage == Storage::kRaw && r.size != r.raw_bytes())
    return corrupt(str_cat(who, ".size: ", r.size, ", shape and dtype need ", r.raw_bytes()));
  if (r.size > kMaxRawBytes) return limit_error(str_cat(who, ".size: more than 2^40 bytes"));
  if (r.storage == Storage::kRawDeflated && r.raw_bytes() > r.size * 1032 + 64)
    return corrupt(str_cat(who, ".size: ", r.size, " bytes cannot inflate to ", r.raw_bytes()));
  return {};
}

Result<TensorRecord> parse_one(ByteReader* in, uint32_t number) {
  const std::string nth = str_cat("tensor ", number, " at offset ", in->offset());
  TensorRecord r;
  uint16_t name_size = 0;
  NWC_TRY(in->read(&name_size, "tensor.name_size"));
  if (name_size < 1 || name_size > kMaxNameBytes) return corrupt(str_cat(nth, ".name_size: allowed are 1 to 1024"));
  NWC_TRY(in->read_string(&r.name, name_size, "tensor.name"));
  if (!is_valid_utf8(r.name) || r.name.find('\0') != std::string::npos)
    return corrupt(str_cat(nth, ".name: not UTF-8 without NUL"));
  const std::string who = str_cat("tensor '", r.name, "'");
  uint8_t storage = 0, dtype = 0, rank = 0, flags = 0;
  NWC_TRY(in->read(&storage, "tensor.storage"));
  NWC_TRY(in->read(&dtype, "tensor.dtype"));
  NWC_TRY(in->read(&rank, "tensor.rank"));
  NWC_TRY(in->read(&flags, "tensor.flags"));
  if (storage > 2) return unsupported(str_cat(who, ".storage: ", storage, ", known are 0 to 2"));
  if (dtype >= kNumDtypes) return unsupported(str_cat(who, ".dtype: ", dtype, ", known are 0 to ", kNumDtypes - 1));
  if (rank > kMaxRank) return limit_error(str_cat(who, ".rank: ", rank, ", at most ", kMaxRank, " are allowed"));
  if ((flags & ~(kRowScales | kRowClasses | kSplitMask | kFreeStates)) != 0)
    return unsupported(str_cat(who, ".flags: reserved bits are set"));
  r.storage = static_cast<Storage>(storage);
  r.dtype = static_cast<Dtype>(dtype);
  r.row_scales = (flags & kRowScales) != 0;
  r.row_classes = (flags & kRowClasses) != 0;
  r.split = 1 + ((flags & kSplitMask) >> kSplitShift);
  r.free_states = (flags & kFreeStates) != 0;
  uint16_t tile_rows = 0, tile_cols = 0;
  NWC_TRY(in->read(&r.group, "tensor.group"));
  NWC_TRY(in->read_array(&r.shape, rank, "tensor.shape"));
  NWC_TRY(in->read(&r.offset, "tensor.offset"));
  NWC_TRY(in->read(&r.size, "tensor.size"));
  NWC_TRY(in->read(&r.crc, "tensor.crc"));
  NWC_TRY(in->read(&r.side_size, "tensor.side_size"));
  NWC_TRY(in->read(&tile_rows, "tensor.tile_rows"));
  NWC_TRY(in->read(&tile_cols, "tensor.tile_cols"));
  NWC_TRY(in->read(&r.scale_base, "tensor.base"));
  NWC_TRY(in->read(&r.row_scale_base, "tensor.row_base"));
  r.tile_rows = tile_rows;
  r.tile_cols = tile_cols;
  for (const uint64_t d : r.shape) {
    if (d > kMaxDimension) return limit_error(str_cat(who, ".shape: a dimension is above 2^31 - 1"));
  }
  uint64_t elements = 0;
  if (!count_elements(r.shape, &elements)) return limit_error(str_cat(who, ".shape: more than 2^40 elements"));
  NWC_TRY(r.storage == Storage::kCoded ? check_coded(r, who) : check_raw(r, who));
  return r;
}

}  // namespace

uint64_t TensorRecord::num_elements() const {
  uint64_t n = 1;
  for (const uint64_t d : shape) n *= d;
  return n;
}

uint64_t TensorRecord::rows() const {
  uint64_t m = 1;
  for (size_t i = 0; i < shape.size() && i < split; ++i) m *= shape[i];
  return m;
}

TileGeometry TileGrid::tile(uint64_t t) const {
  TileGeometry g;
  g.row = t / tiles_per_row() * tile_rows;
  g.col = t % tiles_per_row() * tile_cols;
  g.height = static_cast<uint32_t>(std::min<uint64_t>(tile_rows, m - g.row));
  g.width = static_cast<uint32_t>(std::min<uint64_t>(tile_cols, n - g.col));
  g.free_states = free_states;
  return g;
}

TileGrid tile_grid(const TensorRecord& r) { return {r.rows(), r.cols(), r.tile_rows, r.tile_cols, r.free_states}; }

Result<std::vector<TensorRecord>> parse_tensor_records(Bytes section, uint64_t file_offset, uint64_t data_size) {
  ByteReader in(section, file_offset);
  uint32_t count = 0;
  NWC_TRY(in.read(&count, "tensors.count"));
  if (count > kMaxTensors) return limit_error(str_cat("tensors.count: ", count, ", at most 1048576 are allowed"));
  if (count > in.remaining() / kMinRecordBytes) {
    return truncated(str_cat("tensors.count at offset ", file_offset, ": the section cannot hold ", count, " records"));
  }
  std::vector<TensorRecord> out;
  out.reserve(count);
  std::unordered_set<std::string> names;
  std::unordered_set<uint32_t> groups;
  uint64_t end = 0;
  for (uint32_t i = 0; i < count; ++i) {
    NWC_ASSIGN_OR_RETURN(TensorRecord r, parse_one(&in, i));
    const std::string who = str_cat("tensor '", r.name, "'");
    if (!names.insert(r.name).second) return corrupt(str_cat(who, ": the name occurs twice"));
    const bool starts_group = out.empty() || out.back().group != r.group;
    if (starts_group && !groups.insert(r.group).second)
      return corrupt(str_cat(who, ".group: ", r.group, " continues after another group"));
    if (r.offset < end || r.offset - end >= kMaxGap) {
      return corrupt(str_cat(who, ".offset: ", r.offset, " overlaps or leaves a gap after ", end));
    }
    if (!checked_add(r.offset, r.size, &end) || end > data_size)
      return corrupt(str_cat(who, ".size: ends beyond the end of DATA"));
    out.push_back(std::move(r));
  }
  NWC_TRY(in.expect_end("section TENSORS"));
  if (end != data_size) return corrupt(str_cat("section DATA: ", data_size - end, " bytes after the last tensor"));
  return out;
}

std::vector<uint8_t> serialize(const std::vector<TensorRecord>& records) {
  ByteWriter out;
  out.write(static_cast<uint32_t>(records.size()));
  for (const TensorRecord& r : records) {
    assert(!r.name.empty() && r.name.size() <= kMaxNameBytes && r.shape.size() <= UINT8_MAX && r.split >= 1 &&
           r.split <= kMaxSplit);
    out.write(static_cast<uint16_t>(r.name.size()));
    out.write_string(r.name);
    out.write(static_cast<uint8_t>(r.storage));
    out.write(static_cast<uint8_t>(r.dtype));
    out.write(static_cast<uint8_t>(r.shape.size()));
    out.write(static_cast<uint8_t>((r.row_scales ? kRowScales : 0) | (r.row_classes ? kRowClasses : 0) |
                                   (r.split - 1) << kSplitShift | (r.free_states ? kFreeStates : 0)));
    out.write(r.group);
    out.write_array<uint64_t>(r.shape);
    out.write(r.offset);
    out.write(r.size);
    out.write(r.crc);
    out.write(r.side_size);
    out.write(static_cast<uint16_t>(r.tile_rows));
    out.write(static_cast<uint16_t>(r.tile_cols));
    out.write(r.scale_base);
    out.write(r.row_scale_base);
  }
  return out.take();
}

float scale_from_code(uint8_t code, float base) {
  // 2^(i/8), rounded to f32: written as bits, so that every implementation has the same.
  constexpr uint32_t kRoots[8] = {0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7,
                                  0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7};
  if (code == 0) return 0;
  const uint32_t i = code - 1u;
  return base * std::bit_cast<float>(kRoots[i % 8] + (i / 8 << 23));
}

}  // namespace nwc
