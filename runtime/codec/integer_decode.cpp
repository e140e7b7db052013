#include "runtime/codec/integer_decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/codec/integer_outliers.h"
#include "runtime/codec/integer_pack.h"
#include "runtime/codec/tile_walk.h"

namespace nwc {
namespace {

constexpr uint32_t kGroups = kUnitGroups, kGroupBytes = kUnitGroupBytes;

class IntegerWriter final : public TileConsumer {
 public:
  IntegerWriter(const IntegerForm& form, CpuLevel cpu, uint64_t most_outliers, uint8_t* out, uint32_t num_workers)
      : form_(form), pack_(unit_packer(cpu)), out_(out), found_(num_workers, most_outliers) {
    uint64_t next = 0;
    for (const uint8_t bits : form.bits) {
      unit_at_.push_back(next);
      next += unit_bytes(bits);
    }
  }

  void group(const TileGeometry& g, uint32_t r, uint32_t i, const ColumnGroup& group, const LaneValues& values,
             uint32_t worker) override {
    const uint64_t row_block = g.row / kChunk + r, unit = g.col / kUnitCols + group.slot;
    const uint32_t bits = form_.bits[unit];
    LaneValues used;
    const LaneValues* from = &values;
    if (group.active < kUnitCols) {  // resting lanes hold anything
      used = values;
      for (auto& row : used.q) std::fill(row + group.active, row + kUnitCols, int16_t{0});
      from = &used;
    }
    uint32_t over[kChunk];
    if (!pack_(*from, bits, out_ + row_block * form_.row_block_bytes + unit_at_[unit], over)) return;
    for (uint64_t c = kChunk; row_block * kChunk + c > form_.rows; --c) over[c - 1] = 0;  // rows that there are not
    found_.add(*from, bits, over, unit * kUnitCols, worker, i);
  }

  void row_block(const TileGeometry& g, uint32_t r, uint32_t i, uint32_t worker) override {
    found_.end_run(g.row / kChunk + r, worker, i);
  }

  FoundOutliers& found() { return found_; }

 private:
  const IntegerForm& form_;
  const PackUnit pack_;
  uint8_t* const out_;
  std::vector<uint64_t> unit_at_;
  FoundOutliers found_;
};

/// Factors of the columns over a power of two near the largest, which the rows' scales get: so sums stay in the range
/// of f32 wherever the weights do.
void fill_scales(const CodecRecord& codec, const CodedTensor& coded, const IntegerForm& form, uint8_t* out) {
  float* factor = reinterpret_cast<float*>(out + form.factor_at);
  float* row_scale = reinterpret_cast<float*>(out + form.row_scale_at);
  double largest = 0;
  const auto exact = [&](uint64_t j) {
    return static_cast<double>(coded.scale[j]) * static_cast<double>(codec.step[coded.level[j]]);
  };
  for (uint64_t j = 0; j < form.cols; ++j) largest = std::max(largest, exact(j));
  const int exponent = largest > 0 ? std::ilogb(largest) : 0;
  for (uint64_t j = 0; j < form.padded_cols(); ++j)
    factor[j] = j < form.cols ? static_cast<float>(std::ldexp(exact(j), -exponent)) : 0.0f;
  float* shrink = reinterpret_cast<float*>(out + form.shrink_at);
  for (uint64_t j = 0; form.shrinks && j < form.padded_cols(); ++j)
    shrink[j] = j < form.cols ? factor[j] * codec.shrink[coded.level[j]] : 0.0f;
  for (uint64_t i = 0; i < form.row_blocks() * kChunk; ++i) {
    const double scale = i >= form.rows ? 0 : coded.row_scale.empty() ? 1 : static_cast<double>(coded.row_scale[i]);
    row_scale[i] = static_cast<float>(std::ldexp(scale, exponent));
  }
}

}  // namespace

void unpack_unit(uint32_t bits, const uint8_t* unit, uint8_t* bytes) {
  if (bits == 8) {
    std::memcpy(bytes, unit, kUnitWeights);
    return;
  }
  const uint32_t width = bits - 4, groups = width == 0 ? 1 : 8 / width;
  const uint8_t* upper = unit + 4 * kGroupBytes;
  for (uint32_t g = 0; g < kGroups; ++g) {
    for (uint32_t p = 0; p < kGroupBytes; ++p) {
      const uint32_t lower = unit[kGroupBytes * (g / 2) + p] >> (4 * (g % 2)) & 15u;
      const uint32_t high =
          width == 0 ? 0 : upper[kGroupBytes * (g / groups) + p] >> (width * (g % groups)) & ((1u << width) - 1);
      bytes[kGroupBytes * g + p] = static_cast<uint8_t>(lower | high << 4);
    }
  }
}

uint64_t integer_decode_bytes(const IntegerForm& form, uint64_t tile_cols, uint32_t num_workers) {
  return FoundOutliers::bytes(form, tile_cols, num_workers);
}

void integer_row(const IntegerForm& form, const uint8_t* data, uint64_t row, float* out) {
  const uint64_t block = row / kChunk;
  const uint32_t r = static_cast<uint32_t>(row % kChunk);
  const float* factor = reinterpret_cast<const float*>(data + form.factor_at);
  const float* shrink = reinterpret_cast<const float*>(data + form.shrink_at);
  const float scale = reinterpret_cast<const float*>(data + form.row_scale_at)[row];
  const uint8_t* unit = data + block * form.row_block_bytes;
  for (uint32_t u = 0; u < form.units(); unit += unit_bytes(form.bits[u]), ++u) {
    uint8_t bytes[kUnitWeights];
    unpack_unit(form.bits[u], unit, bytes);
    const uint64_t first = uint64_t{u} * kUnitCols, count = std::min<uint64_t>(kUnitCols, form.cols - first);
    for (uint32_t l = 0; l < count; ++l) {
      const int32_t q = int32_t{bytes[kGroupBytes * (l / 4) + 4 * r + l % 4]} - integer_bias(form.bits[u]);
      const float sign = static_cast<float>((q > 0) - (q < 0));
      const float shrunk = form.shrinks ? sign * shrink[first + l] : 0.0f;
      out[first + l] = (static_cast<float>(q) * factor[first + l] - shrunk) * scale;
    }
  }
  const uint32_t* begin = reinterpret_cast<const uint32_t*>(data + form.begin_at) + block;
  const Outlier* outliers = reinterpret_cast<const Outlier*>(data + form.outliers_at);
  for (uint32_t i = begin[0]; i < begin[1]; ++i) {
    const uint32_t column = outliers[i].column();
    if (outliers[i].row() == r) out[column] += static_cast<float>(outliers[i].rest()) * factor[column] * scale;
  }
}

Status decode_integers(const NwcFile& file, const DecodeTables& tables, size_t tensor, const IntegerForm& form,
                       uint64_t row_begin, uint64_t row_end, MutableBytes out, Runner& runner,
                       const TensorDecodeOptions& options) {
  if (tensor >= file.tensors().size()) return invalid_argument(str_cat("there is no tensor ", tensor));
  const TensorRecord& record = file.tensors()[tensor];
  const std::string who = str_cat("tensor '", record.name, "'");
  if (record.storage != Storage::kCoded) return invalid_argument(str_cat(who, ": not coded, has no integers"));
  if (record.rows() != form.rows || record.cols() != form.cols || row_begin >= row_end || row_end > form.rows ||
      row_begin % record.tile_rows != 0 || (row_end != form.rows && row_end % record.tile_rows != 0))
    return invalid_argument(str_cat(who, ": rows ", row_begin, " to ", row_end, " of ", record.rows()));
  if (out.size() < form.bytes) {
    return Status(StatusCode::kBufferTooSmall,
                  str_cat(who, ": the buffer has ", out.size(), " bytes, needs ", form.bytes));
  }
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file.load_coded(tensor, options.check_crc));
  if (row_begin == 0) fill_scales(*file.codec(), coded, form, out.data());
  uint32_t* begin = reinterpret_cast<uint32_t*>(out.data() + form.begin_at);
  const uint64_t first = row_begin / kChunk;
  if (first == 0) begin[0] = 0;
  const uint64_t room = form.max_outliers - std::min<uint64_t>(form.max_outliers, begin[first]);
  IntegerWriter writer(form, options.cpu, room, out.data(), runner.num_workers());
  TileWalk walk(file, tables, record, coded, row_begin / record.tile_rows, ceil_div(row_end, record.tile_rows), options,
                writer);
  TileWorkers workers;
  NWC_TRY(walk.run(runner, &workers));
  if (writer.found().too_many())
    return limit_error(str_cat(who, ": more than ", room, " weights are larger than the tables of the codec say"));
  writer.found().write(first, ceil_div(row_end, kChunk), begin,
                       reinterpret_cast<Outlier*>(out.data() + form.outliers_at), runner);
  return {};
}

}  // namespace nwc
