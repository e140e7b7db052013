#include "trainer/plan/codec_ladder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/format/container.h"
#include "trainer/plan/model_plan.h"

namespace nwc {
namespace {

constexpr double kRungsPerOctave = 4;
constexpr double kLowestOctave = -3.5;  ///< deviation over step of level 0: nearly all values are 0
constexpr uint32_t kRungs = 56;         ///< up to ten octaves: 11 bits per weight

/// Share of the ladder's own distribution in a refitted table: values that the sample missed stay affordable.
constexpr double kPriorShare = 0.002;
/// A table of some 50 entries, deflated.
constexpr double kTableBits = 600;
/// 1 / (2 ln 2) for each of some 50 entries: what a table fitted to a sample will be worse than it looks.
constexpr double kOverfitBits = 36;

/// Values of a unit-variance source of heavier tails than a Gaussian, rounded to multiples of `spacing`.
ValueHistogram model_histogram(double spacing) {
  const auto below = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  ValueHistogram out;
  const int limit = std::min(16000, static_cast<int>(std::ceil(10 / spacing)) + 1);
  for (int k = 0; k <= limit; ++k) {
    double mass = 0;
    for (const auto& [share, deviation] : {std::pair{0.85, 0.93}, std::pair{0.13, 1.35}, std::pair{0.02, 2.2}}) {
      const double s = spacing / deviation;
      mass += share * (below((k + 0.5) * s) - below((k - 0.5) * s));
    }
    for (const int v : {k, -k}) {
      out.add(static_cast<int16_t>(v), 1e6 * mass);
      if (k == 0) break;
    }
  }
  return out;
}

/// Bank 1's points lie halfway between bank 0's, but for zero, which both have.
ValueHistogram halfway(const ValueHistogram& even) {
  ValueHistogram out;
  const auto count = [&](int32_t k) {
    const int64_t i = int64_t{k} - even.first();
    return i >= 0 && i < static_cast<int64_t>(even.counts().size()) ? even.counts()[static_cast<size_t>(i)] : 0.0;
  };
  const int32_t last = even.first() + static_cast<int32_t>(even.counts().size()) - 1;
  out.add(0, count(0) / 2);
  for (int32_t k = 1; k <= last + 1; ++k) out.add(static_cast<int16_t>(k), (count(k - 1) + count(k)) / 2);
  for (int32_t k = 1; k <= 1 - even.first(); ++k) out.add(static_cast<int16_t>(-k), (count(1 - k) + count(-k)) / 2);
  return out;
}

ValueHistogram histogram_of(const FrequencyTable& table, double total) {
  ValueHistogram out;
  const double unit = total / kProbScale / (1 << table.raw_bits);
  for (size_t s = 0; s + 1 < table.freq.size(); ++s) {
    const int32_t first = (static_cast<int32_t>(s) + table.min) * (1 << table.raw_bits);
    for (int32_t raw = 0; raw < (1 << table.raw_bits); ++raw)
      out.add(static_cast<int16_t>(first + raw), unit * table.freq[s]);
  }
  return out;
}

CodecModel linear_ladder(const CodecModel& codec, const QuantizerChoice& choice) {
  CodecModel out = codec;
  CodecRecord& r = out.record;
  const bool trellis = choice.trellis_bits != 0;
  r.num_levels = kRungs;
  r.context_kind = choice.row_classes ? ContextKind::kRowClass : ContextKind::kChannel;
  r.tables.clear();
  r.step.clear();
  r.rate.clear();
  r.shrink.assign(kRungs, 0.0f);
  out.lambda.clear();
  out.entropy.level_scale.assign(kRungs, 1.0f);
  for (uint32_t level = 0; level < kRungs; ++level) {
    const double step = std::exp2(-ladder_octaves(level));
    r.step.push_back(static_cast<float>(step));
    const ValueHistogram even = model_histogram(trellis ? 2 * step : step);
    r.rate.push_back(static_cast<float>(even.ideal_bits() / even.total()));
    out.lambda.push_back(static_cast<float>(1 / (step * step)));
    r.tables.push_back(fit_table(even));
    if (trellis) r.tables.push_back(fit_table(halfway(even)));
  }
  return out;
}

CodecModel network_ladder(const CodecModel& codec, bool trellis) {
  std::vector<uint8_t> order(codec.record.num_levels);
  std::iota(order.begin(), order.end(), uint8_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](uint8_t a, uint8_t b) { return codec.record.rate[a] < codec.record.rate[b]; });
  CodecModel out = subset_levels(codec, order);
  CodecRecord& r = out.record;
  if (!trellis) return out;
  for (float& step : r.step) step /= 2;
  std::vector<FrequencyTable> tables;
  for (const FrequencyTable& table : r.tables) {
    tables.push_back(table);
    tables.push_back(fit_table(halfway(histogram_of(table, 1e6))));
  }
  r.tables = std::move(tables);
  return out;
}

}  // namespace

double ladder_position(double octaves) { return (octaves - kLowestOctave) * kRungsPerOctave; }
double ladder_octaves(double position) { return kLowestOctave + position / kRungsPerOctave; }

int32_t rungs_of_class(uint8_t row_class) {
  return row_class == 0 ? 0 : kRungsPerClass * (int32_t{row_class} - kMiddleClass);
}

uint32_t rung_of(const CodecRecord& ladder, uint32_t level, uint32_t row_class) {
  const int32_t rung = static_cast<int32_t>(level) + rungs_of_class(static_cast<uint8_t>(row_class));
  return static_cast<uint32_t>(std::clamp(rung, 0, static_cast<int32_t>(ladder.num_levels) - 1));
}

CodecModel make_ladder(const CodecModel& codec, const QuantizerChoice& choice) {
  const bool linear = codec.record.synthesis.width == 0;
  const bool trellis = choice.trellis_bits != 0;
  CodecModel out = linear ? linear_ladder(codec, choice) : network_ladder(codec, trellis);
  CodecRecord& r = out.record;
  const std::vector<uint16_t> channels = std::move(r.context_map);
  r.quantizer = trellis ? Quantizer::kTrellis : Quantizer::kScalar;
  r.trellis_bits = static_cast<uint8_t>(choice.trellis_bits);
  r.context_map.clear();
  const uint32_t banks = r.num_banks();
  for (uint32_t level = 0; level < r.num_levels; ++level) {
    for (uint32_t c = 0; c < kNumContexts; ++c) {
      const uint32_t table = !linear                                    ? channels[level * kChunk + c]
                             : r.context_kind == ContextKind::kRowClass ? rung_of(r, level, c)
                                                                        : level;
      for (uint32_t bank = 0; bank < banks; ++bank)
        r.context_map.push_back(static_cast<uint16_t>(table * banks + bank));
    }
  }
  return out;
}

CodecRecord refit(const CodecRecord& codec, std::span<const uint8_t> rungs, const CodecRecord& ladder,
                  const ValueStatistics& counted, double weight) {
  const uint32_t banks = codec.num_banks();
  const bool by_rung = codec.context_kind == ContextKind::kRowClass;
  // Contexts that share a rung share a histogram from the start.
  const auto group_of = [&](uint32_t level, uint32_t context, uint32_t bank) {
    const uint32_t group = by_rung ? rung_of(ladder, rungs[level], context) : level * kNumContexts + context;
    return group * banks + bank;
  };
  const uint32_t groups = (by_rung ? ladder.num_levels : codec.num_levels * kNumContexts) * banks;
  std::vector<ValueHistogram> histograms(groups);
  std::vector<int32_t> before(groups, -1);  // the table of any context of the group
  for (uint32_t level = 0; level < codec.num_levels; ++level) {
    for (uint32_t c = 0; c < kNumContexts; ++c) {
      for (uint32_t bank = 0; bank < banks; ++bank) {
        const uint32_t group = group_of(level, c, bank);
        histograms[group].add(counted.histograms[(level * kNumContexts + c) * banks + bank]);
        before[group] = codec.table_of(level, c, bank);
      }
    }
  }
  for (uint32_t g = 0; g < groups; ++g) {
    if (before[g] < 0) continue;
    // A context that the sample did not meet still has to have some table that suits it: a trace of its own will do.
    const double prior = std::max(kPriorShare * histograms[g].total(), 1e-3);
    histograms[g].add(histogram_of(codec.tables[static_cast<size_t>(before[g])], prior));
  }
  TableClusters clusters = cluster_tables(histograms, kMaxTables, kTableBits + weight * kOverfitBits);
  CodecRecord out = codec;
  out.tables = std::move(clusters.tables);
  for (uint32_t level = 0; level < codec.num_levels; ++level) {
    for (uint32_t c = 0; c < kNumContexts; ++c) {
      for (uint32_t bank = 0; bank < banks; ++bank) {
        out.context_map[(level * kNumContexts + c) * banks + bank] =
            clusters.table_of_context[group_of(level, c, bank)];
      }
    }
    // A linear synthesis takes any shrinkage; a network was trained with its own.
    if (codec.synthesis.width == 0 && counted.nonzero[level] > 0) {
      const double excess = counted.excess[level] / ValueStatistics::kExcessUnit / counted.nonzero[level];
      out.shrink[level] = static_cast<float>(std::clamp(excess, 0.0, 0.5));
    }
  }
  return out;
}

uint64_t stored_codec_bytes(const CodecRecord& codec) {
  const std::vector<uint8_t> bytes = serialize(codec);
  return std::min(bytes.size(), deflate_bytes(bytes).size());
}

}  // namespace nwc
