#include "runtime/engine/weight_range.h"

#include <algorithm>
#include <cmath>

#include "runtime/decoder/raw_tensor.h"

namespace nwc {
namespace {

constexpr double kLargestF16 = 65504;
constexpr double kSmall = 1.0 / (1 << 16);
/// A table reaches about so many standard deviations from 0.
constexpr double kDeviations = 4;
constexpr uint64_t kSamples = 16;

struct Range {
  double largest = 0;  ///< absolute value; of coded weights, without escapes and what a network adds
  bool mostly_small = false;
};

/// Per level: the largest value, escapes aside, that a chunk's number can have before scales.
std::vector<double> largest_by_level(const CodecRecord& codec) {
  double gain = 0;
  for (uint32_t o = 0; o < kChunk; ++o) {
    double sum = 0;
    for (uint32_t i = 0; i < kChunk; ++i)
      sum += std::abs(static_cast<double>(codec.synthesis.skip_weight[o * kChunk + i]));
    gain = std::max(gain, sum);
  }
  std::vector<double> largest(codec.num_levels);
  for (uint32_t level = 0; level < codec.num_levels; ++level) {
    int32_t most = 0;
    for (uint32_t i = 0; i < kChunk * codec.num_banks(); ++i) {
      const FrequencyTable& t = codec.tables[codec.context_map[size_t{level} * kChunk * codec.num_banks() + i]];
      const int32_t last = t.min + static_cast<int32_t>(t.freq.size()) - 2;
      most = std::max({most, std::abs(int32_t{t.min}) << t.raw_bits, (std::abs(last) + 1) << t.raw_bits});
    }
    largest[level] = gain * static_cast<double>(codec.step[level]) * most;
  }
  return largest;
}

Range range_of(const CodedTensor& coded, const std::vector<double>& by_level) {
  double row = 1;
  if (!coded.row_scale.empty())
    row = static_cast<double>(*std::max_element(coded.row_scale.begin(), coded.row_scale.end()));
  Range range;
  uint64_t small = 0, columns = 0;
  for (size_t j = 0; j < coded.scale.size(); ++j) {
    const double largest = by_level[coded.level[j]] * static_cast<double>(coded.scale[j]) * row;
    if (largest == 0) continue;
    ++columns;
    small += largest / kDeviations < kSmall;
    range.largest = std::max(range.largest, largest);
  }
  range.mostly_small = 2 * small > columns;
  return range;
}

Range range_of_raw(const NwcFile& file, size_t tensor) {
  const TensorRecord& r = file.tensors()[tensor];
  const uint64_t bytes = r.raw_bytes(), step = std::max<uint64_t>(kRawPieceBytes, bytes / kSamples);
  Range range;
  uint64_t small = 0, count = 0;
  std::vector<float> values;
  for (uint64_t at = 0; at < bytes; at += step / kRawPieceBytes * kRawPieceBytes) {
    const Status status =
        file.read_raw(tensor, at, std::min<uint64_t>(bytes, at + kRawPieceBytes), false, [&](uint64_t, Bytes piece) {
          values.resize(piece.size() / dtype_size(r.dtype));
          convert_floats(r.dtype, piece.data(), values.size(), Dtype::kF32, reinterpret_cast<uint8_t*>(values.data()));
          for (const float value : values) {
            const double size = std::abs(static_cast<double>(value));
            if (!(size > 0) || std::isinf(size)) continue;
            ++count;
            small += size < kSmall;
            range.largest = std::max(range.largest, size);
          }
        });
    if (!status.ok()) return {};
    if (r.storage == Storage::kRawDeflated) break;  // each piece would inflate all of it
  }
  range.mostly_small = 2 * small > count;
  return range;
}

}  // namespace

std::string why_not_f16(const NwcFile& file, const ModelLayout& layout) {
  std::vector<double> by_level;
  if (file.codec()) by_level = largest_by_level(*file.codec());
  std::vector<size_t> tensors;
  if (layout.has_embedding()) tensors.push_back(layout.embedding);
  if (layout.separate_head()) tensors.push_back(layout.head);
  for (const LayerLayout& layer : layout.layers) {
    for (const PlacedMatrix& m : layer.matrices) tensors.push_back(m.tensor);
    for (const PlacedMatrix& m : layer.expert_matrices) tensors.push_back(m.tensor);
  }
  for (const size_t tensor : tensors) {
    const TensorRecord& r = file.tensors()[tensor];
    Range range;
    if (r.storage != Storage::kCoded) {
      if (r.dtype != Dtype::kF16) range = range_of_raw(file, tensor);
    } else if (const Result<CodedTensor> coded = file.load_coded(tensor, false); coded.ok()) {
      range = range_of(*coded, by_level);
    }
    if (range.largest > kLargestF16)
      return str_cat("tensor ", r.name, " may hold weights beyond 65504, which f16 makes infinite");
    if (range.mostly_small)
      return str_cat("tensor ", r.name, " holds weights so small that f16 rounds them coarsely or to 0");
  }
  return {};
}

}  // namespace nwc
