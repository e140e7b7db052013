#include "trainer/encode/rate_control.h"

#include <algorithm>
#include <cmath>

#include "runtime/format/container.h"
#include "trainer/encode/tensor_encode.h"

namespace nwc {
namespace {

constexpr uint64_t kSampleBudgetChunks = 1u << 20;  ///< 64 MiB for the whole model
constexpr uint64_t kMinSampleChunks = 32;
/// Of these, as many are analysed to estimate the rate of a level; all of them for tables.
constexpr uint64_t kEstimateBudgetChunks = 1u << 17;
constexpr uint64_t kMaxEstimateChunks = 1024;
constexpr int kBisections = 40;
/// A lane stores 32 bits of state of which 16 to 32, on average 8 more than the 16 it started with, carry data.
constexpr uint64_t kStateCostBytes = 3;
constexpr uint64_t kDirectoryBytes = 8;
constexpr uint64_t kMeanPadding = 32;

class UniformPolicy : public LevelPolicy {
 public:
  explicit UniformPolicy(std::vector<uint32_t> offset) : offset_(std::move(offset)) {}
  std::vector<uint8_t> levels(size_t source, uint64_t n, double quality, uint32_t num_levels) const override {
    const double raised = quality + (offset_.empty() ? 0 : offset_[source]);
    const double t = std::clamp(raised, 0.0, num_levels - 1.0);
    const double below = std::floor(t);
    const auto finer = static_cast<uint64_t>(std::llround(static_cast<double>(n) * (t - below)));
    std::vector<uint8_t> out(n, static_cast<uint8_t>(below));
    std::fill(out.end() - static_cast<ptrdiff_t>(finer), out.end(), static_cast<uint8_t>(below + 1));
    return out;
  }

 private:
  std::vector<uint32_t> offset_;
};

/// Chunks spread over the tensor along a low-discrepancy sequence, so that no period of the rows or columns is met.
std::vector<float> sample_chunks(std::span<const float> w, uint64_t m, uint64_t n, const TensorScales& scales,
                                 uint64_t count) {
  const uint64_t total = ceil_div(m, kChunk) * n;
  count = std::min(count, total);
  std::vector<float> sample(count * kChunk, 0);
  constexpr double kGolden = 0.6180339887498949;
  for (uint64_t i = 0; i < count; ++i) {
    const double jitter = std::fmod(static_cast<double>(i) * kGolden, 1.0);
    const auto chunk =
        std::min(total - 1, static_cast<uint64_t>((static_cast<double>(i) + jitter) / static_cast<double>(count) *
                                                  static_cast<double>(total)));
    const uint64_t rb = chunk / n, j = chunk % n;
    const float column = scales.column.value[j];
    for (uint64_t row = rb * kChunk; row < std::min(m, (rb + 1) * kChunk); ++row) {
      const float scale = scales.row.value.empty() ? column : column * scales.row.value[row];
      if (scale > 0) sample[i * kChunk + row % kChunk] = w[row * n + j] / scale;
    }
  }
  return sample;
}

/// Share of the codec's own distribution in a refitted table: values that the sample missed stay affordable.
constexpr double kPriorWeight = 0.002;
/// A table of some 50 entries, deflated.
constexpr double kTableBits = 600;
/// 1 / (2 ln 2) for each of some 50 entries.
constexpr double kOverfitBits = 36;

void add_prior(const FrequencyTable& table, double weight, ValueHistogram* histogram) {
  const double unit = weight / kProbScale / (1 << table.raw_bits);
  for (size_t s = 0; s + 1 < table.freq.size(); ++s) {
    const int32_t first = (static_cast<int32_t>(s) + table.min) * (1 << table.raw_bits);
    for (int32_t raw = 0; raw < (1 << table.raw_bits); ++raw) {
      histogram->add(static_cast<int16_t>(first + raw), unit * table.freq[s]);
    }
  }
}

}  // namespace

std::unique_ptr<LevelPolicy> make_uniform_policy(std::vector<uint32_t> offset) {
  return std::make_unique<UniformPolicy>(std::move(offset));
}

uint64_t stored_codec_bytes(const CodecRecord& codec) {
  const std::vector<uint8_t> bytes = serialize(codec);
  return std::min(bytes.size(), deflate_bytes(bytes).size());
}

Result<RateModel> RateModel::survey(const ModelSource& source, std::vector<PlannedTensor>* plan, bool row_scales,
                                    Runner& runner, const Progress& progress) {
  RateModel model;
  uint64_t coded = 0;
  for (const PlannedTensor& p : *plan) coded += p.coded ? 1 : 0;
  const uint64_t per_tensor = std::max(kSampleBudgetChunks / std::max<uint64_t>(coded, 1), kMinSampleChunks);
  for (size_t i = 0; i < plan->size(); ++i) {
    if (!progress.report(i, plan->size())) return Status(StatusCode::kCancelled, "cancelled while reading the model");
    PlannedTensor& p = (*plan)[i];
    if (!p.coded) continue;
    const SourceTensor& tensor = source.tensors()[p.source];
    NWC_ASSIGN_OR_RETURN(const std::vector<float> w, source.read_f32(p.source));
    if (std::all_of(w.begin(), w.end(), [](float v) { return v == 0; })) {
      p.coded = false;
      continue;
    }
    SurveyedTensor& s = model.tensors_[p.source];
    s.m = tensor.shape[0];
    s.n = tensor.num_elements() / s.m;
    const TensorScales scales = fit_scales(w, s.m, s.n, row_scales, runner);
    s.sample = sample_chunks(w, s.m, s.n, scales, per_tensor);
    const std::vector<uint8_t> flat(s.n, 0);
    s.side_bytes = deflate_bytes(side_information(scales, flat, {})).size();
    const TileShape shape = choose_tile_shape(s.m, s.n);
    const TileGrid grid{s.m, s.n, shape.rows, shape.cols};
    for (uint64_t t = 0; t < grid.num_tiles(); ++t) {
      s.overhead_bytes += kDirectoryBytes + kStateCostBytes * grid.tile(t).lanes();
    }
    s.overhead_bytes += kMeanPadding;
    model.coded_weights_ += s.m * s.n;
  }
  return model;
}

std::vector<uint8_t> RateModel::used_levels(const LevelPolicy& policy, double quality, uint32_t num_levels) const {
  std::vector<bool> used(num_levels, false);
  for (const auto& [source, s] : tensors_) {
    for (uint8_t level : policy.levels(source, s.n, quality, num_levels)) used[level] = true;
  }
  std::vector<uint8_t> out;
  for (uint32_t l = 0; l < num_levels; ++l) {
    if (used[l]) out.push_back(static_cast<uint8_t>(l));
  }
  return out;
}

void RateModel::measure_level(const CodecModel& codec, const Rounding& rounding, uint8_t level, Runner& runner) {
  measured_.resize(codec.record.num_levels, false);
  if (measured_[level]) return;
  measured_[level] = true;
  std::vector<SurveyedTensor*> all;
  for (auto& [source, s] : tensors_) all.push_back(&s);
  const TableCosts costs(codec.record);
  const uint64_t most = std::clamp<uint64_t>(kEstimateBudgetChunks / std::max<size_t>(all.size(), 1), kMinSampleChunks,
                                             kMaxEstimateChunks);
  parallel_for(runner, static_cast<uint32_t>(all.size()), [&](uint32_t i, uint32_t) {
    SurveyedTensor& s = *all[i];
    s.level_bits.resize(codec.record.num_levels, -1);
    const size_t all_chunks = s.sample.size() / kChunk;
    const size_t stride = ceil_div(all_chunks, most);
    std::vector<float> u;
    for (size_t c = 0; c < all_chunks; c += stride) {
      u.insert(u.end(), s.sample.begin() + static_cast<ptrdiff_t>(c * kChunk),
               s.sample.begin() + static_cast<ptrdiff_t>((c + 1) * kChunk));
    }
    const std::vector<float> x = u;
    const size_t chunks = x.size() / kChunk;
    const std::vector<uint8_t> levels(chunks, level);
    std::vector<int16_t> k(x.size());
    analyze_chunks(codec, x, levels.data(), u);
    round_chunks(codec.record, costs, rounding, u, levels.data(), k);
    double bits = 0;
    for (size_t j = 0; j < k.size(); ++j) bits += costs.bits(level, static_cast<uint32_t>(j % kChunk), 0, k[j]);
    s.level_bits[level] = static_cast<float>(bits / static_cast<double>(chunks));
  });
}

double RateModel::estimate_bytes(const CodecModel& codec, const Rounding& rounding, const LevelPolicy& policy,
                                 double quality, Runner& runner) {
  const uint32_t num_levels = codec.record.num_levels;
  const std::vector<uint8_t> used = used_levels(policy, quality, num_levels);
  for (uint8_t level : used) measure_level(codec, rounding, level, runner);
  double bytes = 0;
  for (const auto& [source, s] : tensors_) {
    double bits = 0;
    for (uint8_t level : policy.levels(source, s.n, quality, num_levels)) bits += s.level_bits[level];
    bytes += bits * static_cast<double>(ceil_div(s.m, kChunk)) / 8;
    bytes += static_cast<double>(s.side_bytes + s.overhead_bytes);
  }
  static_assert(kMaxLevels <= 64);
  uint64_t set = 0;
  for (uint8_t level : used) set |= uint64_t{1} << level;
  auto known = codec_bytes_.find(set);
  if (known == codec_bytes_.end()) {
    known = codec_bytes_.emplace(set, stored_codec_bytes(subset_levels(codec.record, used))).first;
  }
  return bytes + static_cast<double>(known->second);
}

double RateModel::find_quality(const CodecModel& codec, const Rounding& rounding, const LevelPolicy& policy,
                               double bytes, Runner& runner) {
  double low = 0, high = codec.record.num_levels - 1.0;
  for (int i = 0; i < kBisections && high - low > 1e-5; ++i) {
    const double middle = (low + high) / 2;
    (estimate_bytes(codec, rounding, policy, middle, runner) < bytes ? low : high) = middle;
  }
  return (low + high) / 2;
}

ExpectedValues RateModel::expected_values(const CodecModel& codec, std::span<const uint8_t> level_map,
                                          const Rounding& rounding, const LevelPolicy& policy, double quality,
                                          Runner& runner) const {
  const uint32_t num_levels = codec.record.num_levels;
  // share[i * num_levels + l]: chunks of tensor i at level l for each chunk in its sample.
  std::vector<const SurveyedTensor*> all;
  std::vector<double> share;
  for (const auto& [source, s] : tensors_) {
    std::vector<double> columns(num_levels, 0);
    for (uint8_t level : policy.levels(source, s.n, quality, static_cast<uint32_t>(level_map.size()))) {
      columns[level_map[level]] += 1;
    }
    const double sampled = static_cast<double>(s.sample.size()) / kChunk;
    for (double& c : columns) share.push_back(c * static_cast<double>(ceil_div(s.m, kChunk)) / sampled);
    all.push_back(&s);
  }
  const TableCosts costs(codec.record);
  ExpectedValues out;
  out.contexts.resize(size_t{num_levels} * kChunk);
  out.shrink.assign(codec.record.shrink.begin(), codec.record.shrink.end());
  std::vector<double> sampled(num_levels, 0);
  parallel_for(runner, num_levels, [&](uint32_t level, uint32_t) {
    std::vector<float> u;
    std::vector<int16_t> k;
    double excess = 0, count = 0;  // of |k| over |u|, where k is not 0
    for (size_t i = 0; i < all.size(); ++i) {
      const double weight = share[i * num_levels + level];
      if (weight == 0) continue;
      const std::vector<float>& sample = all[i]->sample;
      const std::vector<uint8_t> levels(sample.size() / kChunk, static_cast<uint8_t>(level));
      u.resize(sample.size());
      k.resize(sample.size());
      analyze_chunks(codec, sample, levels.data(), u);
      round_chunks(codec.record, costs, rounding, u, levels.data(), k);
      for (size_t j = 0; j < k.size(); ++j) {
        out.contexts[level * kChunk + j % kChunk].add(k[j], weight);
        if (k[j] == 0) continue;
        excess += weight * (k[j] > 0 ? k[j] - double{u[j]} : double{u[j]} - k[j]);
        count += weight;
      }
      sampled[level] += static_cast<double>(k.size());
    }
    if (count > 0) out.shrink[level] = std::clamp(excess / count, 0.0, 0.5);
  });
  double values = 0, samples = 0;
  for (const ValueHistogram& h : out.contexts) values += h.total();
  for (const double n : sampled) samples += n;
  if (samples > 0) out.weight = std::max(1.0, values / samples);
  return out;
}

CodecRecord refit_tables(const CodecRecord& codec, const ExpectedValues& expected) {
  double old_bits = 8 * static_cast<double>(stored_codec_bytes(codec));
  std::vector<ValueHistogram> smoothed = expected.contexts;
  for (size_t i = 0; i < smoothed.size(); ++i) {
    const FrequencyTable& table = codec.tables[codec.context_map[i]];
    old_bits += table_bits(table, expected.contexts[i]);
    if (!expected.contexts[i].empty()) add_prior(table, kPriorWeight * expected.contexts[i].total(), &smoothed[i]);
  }
  // Tables of their own look better on the sample than they will be: each entry's count is off by its own deviation.
  const double cost = kTableBits + expected.weight * kOverfitBits;
  TableClusters clusters = cluster_tables(smoothed, kMaxTables, cost);
  CodecRecord out = codec;
  out.tables = std::move(clusters.tables);
  out.context_map = std::move(clusters.table_of_context);
  double new_bits = 8 * static_cast<double>(stored_codec_bytes(out));
  for (size_t i = 0; i < expected.contexts.size(); ++i)
    new_bits += table_bits(out.tables[out.context_map[i]], expected.contexts[i]);
  return new_bits < old_bits ? out : codec;
}

}  // namespace nwc
