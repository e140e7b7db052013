#include "runtime/codec/integer_decode.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "runtime/codec/tile_walk.h"

namespace nwc {
namespace {

constexpr uint32_t kGroups = 8, kGroupBytes = 64;

/// Integers of 16 rows and 32 columns, already within their bits.
void pack_unit(const LaneValues& values, uint32_t bits, uint8_t* unit) {
  const int16_t bias = static_cast<int16_t>(integer_bias(bits));
  const int16_t most = static_cast<int16_t>(2 * bias - 1);
  alignas(64) uint8_t narrow[kChunk][kUnitCols];
  for (uint32_t r = 0; r < kChunk; ++r) {
    for (uint32_t l = 0; l < kUnitCols; ++l) {
      const int32_t v = int32_t{values.q[r][l]} + bias;
      narrow[r][l] = static_cast<uint8_t>(std::clamp<int32_t>(v, 0, most));
    }
  }
  alignas(64) uint8_t staged[kUnitWeights];
  uint8_t* bytes = bits == 8 ? unit : staged;
  for (uint32_t r = 0; r < kChunk; ++r) {
    for (uint32_t g = 0; g < kGroups; ++g) std::memcpy(bytes + kGroupBytes * g + 4 * r, &narrow[r][4 * g], 4);
  }
  if (bits == 8) return;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint8_t* even = bytes + kGroupBytes * 2 * i;
    for (uint32_t p = 0; p < kGroupBytes; ++p)
      unit[kGroupBytes * i + p] = static_cast<uint8_t>((even[p] & 15) | even[kGroupBytes + p] << 4);
  }
  uint8_t* upper = unit + 4 * kGroupBytes;
  for (uint32_t block = 0; bits > 4 && block < bits - 4; ++block) {
    const uint32_t width = bits - 4, groups = 8 / width;
    for (uint32_t p = 0; p < kGroupBytes; ++p) {
      uint32_t b = 0;
      for (uint32_t g = 0; g < groups; ++g)
        b |= static_cast<uint32_t>(bytes[kGroupBytes * (block * groups + g) + p] >> 4) << (width * g);
      upper[kGroupBytes * block + p] = static_cast<uint8_t>(b);
    }
  }
}

class IntegerWriter final : public TileConsumer {
 public:
  struct Found {
    uint64_t row_block = 0;
    Outlier outlier;
  };
  IntegerWriter(const IntegerForm& form, uint8_t* out, uint32_t num_workers)
      : form_(form), out_(out), found_(num_workers) {
    for (const uint8_t bits : form.bits) {
      unit_at_.push_back(unit_at_.empty() ? 0 : next_);
      next_ = unit_at_.back() + unit_bytes(bits);
    }
  }

  void group(const TileGeometry& g, uint32_t r, uint32_t, const ColumnGroup& group, const LaneValues& values,
             uint32_t worker) override {
    const uint64_t row_block = g.row / kChunk + r, unit = g.col / kUnitCols + group.slot;
    const uint32_t bits = form_.bits[unit];
    uint8_t* out = out_ + row_block * form_.row_block_bytes + unit_at_[unit];
    LaneValues used;
    const LaneValues* from = &values;
    if (group.active < kUnitCols) {  // resting lanes hold anything
      used = values;
      for (auto& row : used.q) std::fill(row + group.active, row + kUnitCols, int16_t{0});
      from = &used;
    }
    const uint16_t bias = static_cast<uint16_t>(integer_bias(bits));
    uint16_t over = 0;
    for (uint32_t c = 0; c < kChunk; ++c) {
      for (uint32_t l = 0; l < kUnitCols; ++l)
        over |= static_cast<uint16_t>(static_cast<uint16_t>(from->q[c][l]) + bias) >= 2 * bias;
    }
    if (over != 0) add_outliers(*from, bits, row_block, unit, worker);
    pack_unit(*from, bits, out);
  }

  /// Of all workers, in order of rows and columns.
  Result<std::vector<Found>> outliers(uint64_t room) {
    if (count_ > room)
      return limit_error(str_cat("more than ", room, " weights are larger than the tables of the codec say"));
    std::vector<Found> all;
    for (const std::vector<Found>& f : found_) all.insert(all.end(), f.begin(), f.end());
    std::sort(all.begin(), all.end(), [](const Found& a, const Found& b) {
      if (a.row_block != b.row_block) return a.row_block < b.row_block;
      if (a.outlier.column() != b.outlier.column()) return a.outlier.column() < b.outlier.column();
      if (a.outlier.row() != b.outlier.row()) return a.outlier.row() < b.outlier.row();
      return a.outlier.rest() < b.outlier.rest();
    });
    return all;
  }

 private:
  void add_outliers(const LaneValues& values, uint32_t bits, uint64_t row_block, uint64_t unit, uint32_t worker) {
    const int32_t bias = integer_bias(bits);
    for (uint32_t c = 0; c < kChunk && row_block * kChunk + c < form_.rows; ++c) {
      for (uint32_t l = 0; l < kUnitCols; ++l) {
        const int32_t q = values.q[c][l];
        for (int32_t rest = q - std::clamp(q, -bias, bias - 1); rest != 0;) {
          if (++count_ > form_.max_outliers) return;  // an error in the end
          const int32_t part = std::clamp(rest, -kMostRest, kMostRest);
          found_[worker].push_back({row_block, Outlier(static_cast<uint32_t>(unit * kUnitCols + l), c, part)});
          rest -= part;
        }
      }
    }
  }

  const IntegerForm& form_;
  uint8_t* const out_;
  std::vector<uint64_t> unit_at_;
  uint64_t next_ = 0;
  std::vector<std::vector<Found>> found_;
  std::atomic<uint64_t> count_{0};
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
  IntegerWriter writer(form, out.data(), runner.num_workers());
  TileWalk walk(file, tables, record, coded, row_begin / record.tile_rows, ceil_div(row_end, record.tile_rows), options,
                writer);
  TileWorkers workers;
  NWC_TRY(walk.run(runner, &workers));
  uint32_t* begin = reinterpret_cast<uint32_t*>(out.data() + form.begin_at);
  Outlier* outliers = reinterpret_cast<Outlier*>(out.data() + form.outliers_at);
  const uint64_t first = row_begin / kChunk;
  uint32_t at = first == 0 ? 0 : begin[first];
  auto found = writer.outliers(form.max_outliers - at);
  if (!found.ok()) return found.status().with_context(who);
  size_t next = 0;
  for (uint64_t block = first; block < ceil_div(row_end, kChunk); ++block) {
    begin[block] = at;
    for (; next < found->size() && (*found)[next].row_block == block; ++next) outliers[at++] = (*found)[next].outlier;
    begin[block + 1] = at;
  }
  return {};
}

}  // namespace nwc
