#include "trainer/train/freeze.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

#include "runtime/base/half.h"
#include "trainer/codec/analysis_record.h"
#include "trainer/codec/entropy_fit.h"

namespace nwc {
namespace {

/// This is the density's share of the counts: enough to give every value of the tails a place, too little to cost bits.
constexpr double kPriorShare = 1e-3;
constexpr uint32_t kMaxFrozenTables = 192;
/// Contexts share a table where that costs less than this, in bits per weight of a level and table saved.
constexpr double kTableCost = 2e-4;
/// The channels of a level share one table, which decodes faster, where that costs no more bits per weight than this.
constexpr double kOneTableCost = 3e-3;

int16_t to_symbol(float u) { return static_cast<int16_t>(std::clamp(std::round(u), -32767.0f, 32767.0f)); }

/// Gives the parameters of one channel in the order of FactorizedDensity.
std::vector<double> density_parameters(const EntropyParameters& entropy, size_t channel) {
  std::vector<double> p;
  const auto add = [&](const std::vector<float>& part, size_t count) {
    for (size_t i = 0; i < count; ++i) p.push_back(part[channel * count + i]);
  };
  add(entropy.matrix, kEntropyMatrix), add(entropy.bias, kEntropyBias), add(entropy.factor, kEntropyFactor);
  return p;
}

/// Gives the density's probabilities of (level, channel), times `weight`, from the lower to the upper quantile.
void add_prior(const CodecModel& codec, uint32_t level, size_t channel, double weight, ValueHistogram* histogram) {
  const EntropyParameters& entropy = codec.entropy;
  const std::vector<double> params = density_parameters(entropy, channel);
  const double interval = static_cast<double>(entropy.level_scale[level]) * codec.record.step[level];
  const float* quantile = entropy.quantiles.data() + channel * kEntropyQuantiles;
  constexpr double kReach = 2000;  // values beyond it are escapes in any table
  const auto low = static_cast<int>(std::clamp(std::floor(quantile[0] / interval), -kReach, 0.0));
  const auto high = static_cast<int>(std::clamp(std::ceil(quantile[2] / interval), 0.0, kReach));
  std::vector<double> edge, logit;
  for (int k = low; k <= high + 1; ++k) edge.push_back((k - 0.5) * interval);
  logit.resize(edge.size());
  FactorizedDensity<double>::logits(params.data(), edge, logit);
  for (size_t i = 0; i + 1 < logit.size(); ++i) {
    const double sign = logit[i] + logit[i + 1] > 0 ? -1 : 1;  // both are taken on the side with small numbers
    const double p = std::abs(1 / (1 + std::exp(-sign * logit[i + 1])) - 1 / (1 + std::exp(-sign * logit[i])));
    if (p > 1e-9) histogram->add(static_cast<int16_t>(low + static_cast<int>(i)), weight * p);
  }
  if (histogram->empty()) histogram->add(0, weight);
}

/// Estimates the bits that fresh data of the same distribution would need. A sample looks better under its own counts
/// than it is (Miller 1955).
double unbiased_bits(const ValueHistogram& histogram) {
  const auto used =
      std::count_if(histogram.counts().begin(), histogram.counts().end(), [](double n) { return n >= 0.5; });
  return histogram.ideal_bits() + static_cast<double>(used) / (2 * std::numbers::ln2);
}

struct LevelCounts {
  std::vector<ValueHistogram> channel{kChunk};
};

/// The result is the mean squared error of decoding `symbols` [N][16] with the given shrinkage, against x.
double decoding_error(const CodecModel& codec, std::span<const float> x, std::span<const int16_t> symbols,
                      const std::vector<uint8_t>& levels, double shrink) {
  const float step = codec.record.step[levels[0]];
  std::vector<float> z(x.size()), y(x.size());
  for (size_t i = 0; i < z.size(); ++i) {
    const auto k = static_cast<float>(symbols[i]);
    const float sign = static_cast<float>((symbols[i] > 0) - (symbols[i] < 0));
    z[i] = (k - sign * static_cast<float>(shrink)) * step;
  }
  apply_network(codec.record.synthesis, codec.record.num_levels, z, levels.data(), y);
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (static_cast<double>(y[i]) - x[i]) * (static_cast<double>(y[i]) - x[i]);
  return sum / static_cast<double>(x.size());
}

std::vector<int16_t> quantize(const CodecModel& codec, std::span<const float> chunks,
                              const std::vector<uint8_t>& levels) {
  std::vector<float> u(chunks.size());
  analyze_chunks(codec, chunks, levels.data(), u);
  std::vector<int16_t> symbols(u.size());
  std::transform(u.begin(), u.end(), symbols.begin(), to_symbol);
  return symbols;
}

/// The error is quadratic in the shrinkage (exactly so for a linear g_s). The result is the vertex of the parabola
/// through three points.
double best_shrink(const CodecModel& codec, std::span<const float> x, std::span<const int16_t> symbols,
                   const std::vector<uint8_t>& levels) {
  constexpr double kStep = 0.05, kMost = 0.45;
  const auto error_at = [&](double shrink) { return decoding_error(codec, x, symbols, levels, shrink); };
  const double e0 = error_at(0), e1 = error_at(kStep), e2 = error_at(2 * kStep);
  const double curvature = e0 - 2 * e1 + e2;
  if (!(curvature > 0)) return 0;
  const double vertex = std::clamp(kStep * (1.5 * e0 - 2 * e1 + 0.5 * e2) / curvature, 0.0, kMost);
  return error_at(vertex) < e0 ? vertex : 0;
}

}  // namespace

CodecModel make_codec(const TrainedParameters& parameters) {
  const CodecLayout layout(parameters.shape);
  const std::span<const float> flat(parameters.flat);
  assert(flat.size() == layout.total && parameters.quantiles.size() == kChunk * kEntropyQuantiles);
  CodecModel codec;
  codec.analysis = unflatten(parameters.shape, flat.first(layout.synthesis));
  std::vector<float> synthesis(flat.begin() + static_cast<std::ptrdiff_t>(layout.synthesis),
                               flat.begin() + static_cast<std::ptrdiff_t>(layout.density));
  CodecRecord& record = codec.record;
  record.preset = parameters.preset;
  constexpr float kMaxHalf = 65504;
  record.f16_weights = parameters.shape.width != 0 &&
                       std::all_of(synthesis.begin(), synthesis.end(), [](float v) { return std::abs(v) <= kMaxHalf; });
  if (record.f16_weights) {
    for (float& v : synthesis) v = f16_to_f32(f32_to_f16(v));
  }
  record.synthesis = unflatten(parameters.shape, synthesis);
  record.num_levels = parameters.shape.levels;
  for (uint32_t l = 0; l < record.num_levels; ++l) {
    record.step.push_back(std::exp(flat[layout.log_step + l]));
    codec.entropy.level_scale.push_back(std::exp(flat[layout.log_scale + l]));
  }
  record.shrink.assign(record.num_levels, 0.0f);
  record.rate.assign(record.num_levels, 0.0f);
  for (size_t c = 0; c < kChunk; ++c) {
    const float* p = flat.data() + layout.density + c * DensityLayout::kPerChannel;
    const auto take = [&p](size_t count, std::vector<float>* out) {
      out->insert(out->end(), p, p + count);
      p += count;
    };
    take(kEntropyMatrix, &codec.entropy.matrix);
    take(kEntropyBias, &codec.entropy.bias);
    take(kEntropyFactor, &codec.entropy.factor);
  }
  codec.entropy.quantiles = parameters.quantiles;
  codec.lambda = parameters.lambda;
  return codec;
}

TrainedParameters take_parameters(const CodecModel& codec) {
  TrainedParameters parameters;
  const Network& network = codec.analysis;
  parameters.preset = codec.record.preset;
  parameters.shape = {.width = network.width,
                      .blocks = static_cast<uint32_t>(network.blocks.size()),
                      .activation = network.activation,
                      .layer_norm = network.layer_norm,
                      .levels = codec.record.num_levels};
  parameters.flat = flatten(network);
  const std::vector<float> synthesis = flatten(codec.record.synthesis);
  parameters.flat.insert(parameters.flat.end(), synthesis.begin(), synthesis.end());
  for (size_t c = 0; c < kChunk; ++c) {
    for (const double v : density_parameters(codec.entropy, c)) parameters.flat.push_back(static_cast<float>(v));
  }
  for (const float step : codec.record.step) parameters.flat.push_back(std::log(step));
  for (const float scale : codec.entropy.level_scale) parameters.flat.push_back(std::log(scale));
  parameters.quantiles = codec.entropy.quantiles;
  parameters.lambda = codec.lambda;
  return parameters;
}

void freeze_codec(std::span<const float> chunks, Runner* runner, CodecModel* codec) {
  assert(!chunks.empty() && chunks.size() % kChunk == 0);
  CodecRecord& record = codec->record;
  const size_t count = chunks.size() / kChunk;
  std::vector<LevelCounts> counts(record.num_levels);
  parallel_for(*runner, record.num_levels, [&](uint32_t level, uint32_t) {
    const std::vector<uint8_t> levels(count, static_cast<uint8_t>(level));
    const std::vector<int16_t> symbols = quantize(*codec, chunks, levels);
    for (size_t i = 0; i < symbols.size(); ++i) counts[level].channel[i % kChunk].add(symbols[i]);
    for (size_t c = 0; c < kChunk; ++c) {
      add_prior(*codec, level, c, kPriorShare * static_cast<double>(count), &counts[level].channel[c]);
    }
    // A part of the sample is plenty for one number.
    const size_t part = std::min<size_t>(count, 8192);
    record.shrink[level] =
        static_cast<float>(best_shrink(*codec, chunks.first(part * kChunk), std::span(symbols).first(part * kChunk),
                                       std::vector<uint8_t>(part, static_cast<uint8_t>(level))));
  });

  // A level has one context, or one for each of its channels.
  std::vector<ValueHistogram> contexts;
  std::vector<size_t> first_context;
  for (const LevelCounts& level : counts) {
    ValueHistogram all;
    double separate_bits = 0;
    for (const ValueHistogram& channel : level.channel) {
      all.add(channel);
      separate_bits += unbiased_bits(channel);
    }
    first_context.push_back(contexts.size());
    if (unbiased_bits(all) - separate_bits < kOneTableCost * all.total()) {
      contexts.push_back(std::move(all));
    } else {
      contexts.insert(contexts.end(), level.channel.begin(), level.channel.end());
    }
  }
  first_context.push_back(contexts.size());
  TableClusters clusters = cluster_tables(contexts, kMaxFrozenTables, kTableCost * static_cast<double>(count * kChunk));
  record.tables = std::move(clusters.tables);
  record.context_map.clear();
  for (uint32_t level = 0; level < record.num_levels; ++level) {
    const size_t own = first_context[level + 1] - first_context[level];
    for (size_t c = 0; c < kChunk; ++c) {
      record.context_map.push_back(clusters.table_of_context[first_context[level] + (own == 1 ? 0 : c)]);
    }
  }
  for (uint32_t level = 0; level < record.num_levels; ++level) {
    double bits = 0, weights = 0;
    for (size_t c = 0; c < kChunk; ++c) {
      const ValueHistogram& histogram = counts[level].channel[c];
      bits += table_bits(record.tables[record.context_map[level * kChunk + c]], histogram);
      weights += histogram.total();
    }
    record.rate[level] = static_cast<float>(bits / weights);
  }
  record.codec_id = compute_codec_id(record);
}

void freeze_from_density(CodecModel* codec) {
  CodecRecord& record = codec->record;
  record.context_map.clear();
  record.tables.clear();
  for (uint32_t level = 0; level < record.num_levels; ++level) {
    ValueHistogram histogram;
    for (size_t c = 0; c < kChunk; ++c) add_prior(*codec, level, c, 1e4, &histogram);
    record.tables.push_back(fit_table(histogram));
    record.context_map.insert(record.context_map.end(), kChunk, static_cast<uint16_t>(level));
    record.shrink[level] = 0;
    record.rate[level] = static_cast<float>(table_bits(record.tables.back(), histogram) / histogram.total());
  }
  record.codec_id = compute_codec_id(record);
}

double RateDistortion::gap(double variance) const { return bpw - 0.5 * std::log2(variance / mse); }

RateDistortion measure_codec(const CodecModel& codec, std::span<const float> chunks, uint32_t level) {
  const std::vector<uint8_t> levels(chunks.size() / kChunk, static_cast<uint8_t>(level));
  const std::vector<int16_t> symbols = quantize(codec, chunks, levels);
  std::vector<ValueHistogram> histogram(kChunk);
  for (size_t i = 0; i < symbols.size(); ++i) histogram[i % kChunk].add(symbols[i]);
  double bits = 0;
  for (size_t c = 0; c < kChunk; ++c) {
    bits += table_bits(codec.record.tables[codec.record.context_map[level * kChunk + c]], histogram[c]);
  }
  return {.bpw = bits / static_cast<double>(chunks.size()),
          .mse = decoding_error(codec, chunks, symbols, levels, codec.record.shrink[level])};
}

}  // namespace nwc
