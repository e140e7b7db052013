#include "runtime/codec/integer_form.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "runtime/base/checked.h"
#include "runtime/format/trellis.h"

namespace nwc {
namespace {

constexpr size_t kNumBits = std::size(kIntegerBits);

/// Frequencies are at least 1 in 4096, however rare a symbol is: the rarest are taken to be rarer.
constexpr double kLeastFrequency = 0.3;
/// Room for outliers: as many as expected times this, and so many more of all weights, and of a row block.
constexpr double kOutlierRoom = 1.5;
constexpr double kOutlierShare = 1.0 / 256;
constexpr uint64_t kOutliersPerRowBlock = 2;

}  // namespace

void IntegerForm::place_parts() {
  row_block_bytes = bytes = 0;
  for (const uint8_t b : bits) row_block_bytes += unit_bytes(b);
  if (requantized) row_block_bytes += align_up(uint64_t{units()} * kChunk * sizeof(uint16_t), 64);
  const auto place = [this](uint64_t size) {
    const uint64_t at = bytes;
    bytes = align_up(at + size, 64);
    return at;
  };
  place(row_blocks() * row_block_bytes);
  row_scale_at = place(row_blocks() * kChunk * sizeof(float));
  factor_at = place(padded_cols() * sizeof(float));
  shrink_at = place(shrinks ? padded_cols() * sizeof(float) : 0);
  begin_at = place((row_blocks() + 1) * sizeof(uint32_t));
  outliers_at = place(max_outliers * sizeof(Outlier));
}

const char* why_not_integers(const CodecRecord& codec) {
  if (!codec.synthesis.is_identity()) return "the codec's synthesis is not the identity";
  return nullptr;
}

IntegerForm requantized_form(uint64_t rows, uint64_t cols) {
  IntegerForm form;
  form.rows = rows;
  form.cols = cols;
  form.requantized = true;
  form.bits.assign(static_cast<size_t>(ceil_div(cols, kUnitCols)), uint8_t{8});
  form.place_parts();
  return form;
}

IntegerForms::Shares IntegerForms::shares_of(const FrequencyTable& t, bool trellis, uint32_t bank) {
  Shares shares{};
  const size_t symbols = t.freq.size();
  for (size_t s = 0; s < symbols; ++s) {
    const double freq = (t.freq[s] == 1 ? kLeastFrequency : t.freq[s]) / static_cast<double>(kProbScale);
    const bool escape = s + 1 == symbols;
    const int32_t low = (static_cast<int32_t>(s) + t.min) * (1 << t.raw_bits), high = low + (1 << t.raw_bits) - 1;
    const int32_t k = std::abs(low) > std::abs(high) ? low : high;  // the larger end, which is enough
    const int32_t q = trellis ? trellis_index(k, bank) : k;
    for (size_t b = 0; b < kNumBits; ++b) {
      const int32_t bias = integer_bias(kIntegerBits[b]);
      if (escape || q < -bias || q >= bias) shares[b] += freq;
    }
  }
  return shares;
}

IntegerForms::IntegerForms(const NwcFile& file)
    : file_(file), requantized_(why_not_integers(*file.codec()) != nullptr), of_level_(file.codec()->num_levels) {
  const CodecRecord& codec = *file.codec();
  std::vector<std::array<Shares, 2>> of_table(codec.tables.size());
  for (size_t t = 0; t < codec.tables.size(); ++t) {
    for (uint32_t bank = 0; bank < codec.num_banks(); ++bank)
      of_table[t][bank] = shares_of(codec.tables[t], codec.quantizer == Quantizer::kTrellis, bank);
  }
  for (uint32_t level = 0; level < codec.num_levels; ++level) {
    for (uint32_t c = 0; c < kNumContexts; ++c) {
      for (uint32_t bank = 0; bank < codec.num_banks(); ++bank) {
        const Shares& shares = of_table[codec.table_of(level, c, bank)][bank];
        for (size_t b = 0; b < kNumBits; ++b) of_level_[level][c][b] += shares[b] / codec.num_banks();
      }
    }
  }
}

// Of all levels, over the contexts that the tensor's rows have.
std::vector<IntegerForms::Shares> IntegerForms::shares_by_level(const CodedTensor& coded) const {
  std::array<uint64_t, kNumContexts> rows{};
  if (file_.codec()->context_kind == ContextKind::kChannel) {
    rows.fill(1);
  } else if (coded.row_class.empty()) {
    rows[0] = 1;
  } else {
    for (const uint8_t c : coded.row_class) ++rows[c];
  }
  uint64_t all = 0;
  for (const uint64_t r : rows) all += r;
  std::vector<Shares> levels(of_level_.size());
  for (uint32_t c = 0; c < kNumContexts; ++c) {
    if (rows[c] == 0) continue;
    const double part = static_cast<double>(rows[c]) / static_cast<double>(all);
    for (size_t level = 0; level < levels.size(); ++level) {
      for (size_t b = 0; b < kNumBits; ++b) levels[level][b] += part * of_level_[level][c][b];
    }
  }
  return levels;
}

Result<IntegerForm> IntegerForms::choose(size_t tensor, IntegerWeights which, bool check_crc, double room) const {
  const TensorRecord& record = file_.tensors()[tensor];
  if (requantized_) return requantized_form(record.rows(), record.cols());
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file_.load_coded(tensor, check_crc));
  return form_of(record, coded, which, room);
}

Result<IntegerForms::Both> IntegerForms::choose_both(size_t tensor, bool check_crc) const {
  const TensorRecord& record = file_.tensors()[tensor];
  if (requantized_) {
    const IntegerForm form = requantized_form(record.rows(), record.cols());
    return Both{form, form};
  }
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file_.load_coded(tensor, check_crc));
  return Both{form_of(record, coded, IntegerWeights::kQ8, 1), form_of(record, coded, IntegerWeights::kPacked, 1)};
}

IntegerForm IntegerForms::form_of(const TensorRecord& record, const CodedTensor& coded, IntegerWeights which,
                                  double room) const {
  assert(record.cols() <= kMaxIntegerCols);
  const std::vector<Shares> shares = shares_by_level(coded);
  IntegerForm form;
  form.rows = record.rows();
  form.cols = record.cols();
  double outliers = 0;  // of a row
  for (uint64_t begin = 0; begin < form.cols; begin += kUnitCols) {
    const uint64_t end = std::min<uint64_t>(form.cols, begin + kUnitCols);
    Shares columns{};
    for (uint64_t j = begin; j < end; ++j) {
      if (coded.scale[j] == 0) continue;
      form.shrinks |= file_.codec()->shrink[coded.level[j]] != 0;
      for (size_t b = 0; b < kNumBits; ++b) columns[b] += shares[coded.level[j]][b];
    }
    const auto cost = [&](size_t b) { return kIntegerBits[b] + 8 * kOutlierBytes * columns[b] / kUnitCols; };
    size_t best = kNumBits - 1;
    for (size_t b = 0; which == IntegerWeights::kPacked && b < kNumBits; ++b) {
      if (cost(b) < cost(best)) best = b;
    }
    form.bits.push_back(kIntegerBits[best]);
    outliers += columns[best];
  }
  const uint64_t weights = form.rows * form.cols;
  form.expected_outliers = outliers * static_cast<double>(form.rows);
  const double expected = kOutlierRoom * form.expected_outliers + kOutlierShare * static_cast<double>(weights);
  form.max_outliers =
      std::min(weights, static_cast<uint64_t>(room * expected) + kOutliersPerRowBlock * form.row_blocks());
  form.place_parts();
  return form;
}

}  // namespace nwc
