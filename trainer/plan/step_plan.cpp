#include "trainer/plan/step_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nwc {
namespace {

/// Rates of the paper's four levels, as multiples of the distortion's weight (section 3.4), and the share of columns
/// above each.
constexpr double kPaperWeight[4] = {0.29, 0.83, 10, 20};
constexpr double kPaperShare[3] = {0.1, 0.01, 0.001};

constexpr double kRowsPerOctave = 4;  ///< row steps are rounded to that
constexpr double kMaxRowOctaves = 3;  ///< either side of the mean
constexpr double kClassesPerOctave = 2;
constexpr double kRowCodeBits = 4;      ///< about what a row's scale code takes
constexpr double kRowClassBits = 2.5;   ///< and its class
constexpr double kMinLog = -60;         ///< of an all-zero column
constexpr double kMaxLatentLog = 13.5;  ///< largest |weight| over step
/// Octaves of step over |weight| at which every value is zero, what error feedback adds to the weight included.
constexpr double kAllZeroOctaves = 4;
constexpr double kOctavesAtRateZero = 2.047;  ///< log2 of sqrt(2 pi e): a Gaussian's rate at high resolution
constexpr double kLeastRate = 1e-3;           ///< bits per weight that count as none

double log2_or(double v, double otherwise) { return v > 0 ? std::log2(v) : otherwise; }

/// Half the log2 of arithmetic over geometric mean: bits per weight that telling rows of such variances (or
/// importances) apart saves.
double spread_gain(std::span<const double> v) {
  double sum = 0, logs = 0;
  size_t count = 0;
  for (const double x : v) {
    if (!(x > 0)) continue;
    sum += x;
    logs += std::log2(x);
    ++count;
  }
  return count == 0 ? 0 : 0.5 * (std::log2(sum / static_cast<double>(count)) - logs / static_cast<double>(count));
}

void choose_row_steps(const std::vector<float>& importance, StepProfile* out) {
  const std::vector<double> v(importance.begin(), importance.end());
  if (v.empty() || spread_gain(v) * static_cast<double>(out->n) < kRowCodeBits + kRowClassBits) return;
  out->row_step.resize(out->m);
  double mean = 0;
  for (size_t r = 0; r < v.size(); ++r) {
    out->row_step[r] = -0.5 * log2_or(v[r], 0);
    mean += out->row_step[r] / static_cast<double>(v.size());
  }
  for (double& s : out->row_step)
    s = std::round(std::clamp(s - mean, -kMaxRowOctaves, kMaxRowOctaves) * kRowsPerOctave) / kRowsPerOctave;
}

void measure_columns(std::span<const float> w, StepProfile* out) {
  std::vector<double> sum(out->n, 0.0), peak(out->n, 0.0);
  for (uint64_t r = 0; r < out->m; ++r) {
    const double inverse = out->row_step.empty() ? 1.0 : std::exp2(-out->row_step[r]);
    for (uint64_t c = 0; c < out->n; ++c) {
      const double v = w[r * out->n + c] * inverse;
      sum[c] += v * v;
      peak[c] = std::max(peak[c], std::abs(v));
    }
  }
  out->deviation.resize(out->n);
  out->peak.resize(out->n);
  for (uint64_t c = 0; c < out->n; ++c) {
    out->deviation[c] = 0.5 * log2_or(sum[c] / static_cast<double>(out->m), 2 * kMinLog);
    out->peak[c] = log2_or(peak[c], kMinLog);
  }
}

void choose_classes(std::span<const float> w, StepProfile* out) {
  std::vector<double> variance(out->m, 0.0);
  std::vector<double> inverse(out->n);
  for (uint64_t c = 0; c < out->n; ++c) inverse[c] = out->deviation[c] > kMinLog ? std::exp2(-out->deviation[c]) : 0;
  for (uint64_t r = 0; r < out->m; ++r) {
    const double row = out->row_step.empty() ? 1.0 : std::exp2(-out->row_step[r]);
    for (uint64_t c = 0; c < out->n; ++c) {
      const double v = w[r * out->n + c] * row * inverse[c];
      variance[r] += v * v / static_cast<double>(out->n);
    }
  }
  if (spread_gain(variance) * static_cast<double>(out->n) < kRowClassBits) return;
  out->row_class.resize(out->m);
  for (uint64_t r = 0; r < out->m; ++r) {
    const double octaves = 0.5 * log2_or(variance[r], -2 * kMaxRowOctaves);
    out->row_class[r] =
        static_cast<uint8_t>(std::clamp(kMiddleClass + std::lround(kClassesPerOctave * octaves), 1L, 15L));
  }
}

void choose_column_steps(const TensorImportance& importance, Importance by, StepProfile* out) {
  const uint64_t n = out->n;
  out->column_step = out->deviation;
  switch (by) {
    case Importance::kNone: return;
    case Importance::kFlat: {
      double power = 0;
      for (const double d : out->deviation) power += std::exp2(2 * d) / static_cast<double>(n);
      std::fill(out->column_step.begin(), out->column_step.end(), 0.5 * log2_or(power, 2 * kMinLog));
      return;
    }
    case Importance::kPaper: {
      if (importance.hessian_diagonal.empty()) return;
      std::vector<uint64_t> order(n);
      std::iota(order.begin(), order.end(), uint64_t{0});
      std::stable_sort(order.begin(), order.end(), [&](uint64_t a, uint64_t b) {
        return importance.hessian_diagonal[a] > importance.hessian_diagonal[b];
      });
      for (uint64_t i = 0; i < n; ++i) {
        uint32_t level = 0;
        for (const double share : kPaperShare) level += static_cast<double>(i) < share * static_cast<double>(n) ? 1 : 0;
        out->column_step[order[i]] -= 0.5 * std::log2(kPaperWeight[level]);
      }
      return;
    }
    case Importance::kWaterfill:
      if (importance.diagonal.empty()) {
        choose_column_steps(importance, Importance::kFlat, out);
        return;
      }
      for (uint64_t c = 0; c < n; ++c) out->column_step[c] = -0.5 * std::log2(importance.diagonal[c]);
      return;
  }
}

/// Between two levels of the codec, by rate. Levels are by rising rate.
double level_of_rate(const CodecRecord& codec, double rate) {
  const std::vector<float>& r = codec.rate;
  const auto above = std::upper_bound(r.begin(), r.end(), rate) - r.begin();
  if (above == 0) return 0;
  if (above == static_cast<ptrdiff_t>(r.size())) return static_cast<double>(r.size() - 1);
  const double low = r[static_cast<size_t>(above - 1)], high = r[static_cast<size_t>(above)];
  return static_cast<double>(above - 1) + (rate - low) / (high - low);
}

/// log2 of the distance between neighbouring points, in steps: a trellis has banks that are two steps apart.
double spacing_octaves(const CodecRecord& ladder) { return ladder.quantizer == Quantizer::kTrellis ? 1 : 0; }

/// Rate of a unit-variance source quantized at `octaves` = log2(deviation / step).
double rate_of_octaves(const CodecRecord& ladder, double octaves) {
  return 0.5 * std::log2(1 + std::exp2(2 * (octaves + kOctavesAtRateZero - spacing_octaves(ladder))));
}

/// The inverse of rate_of_octaves.
double octaves_of_rate(const CodecRecord& ladder, double rate) {
  return 0.5 * std::log2(std::exp2(2 * std::max(rate, kLeastRate)) - 1) - kOctavesAtRateZero + spacing_octaves(ladder);
}

}  // namespace

double StepProfile::mean_octaves() const {
  double sum = 0, count = 0;
  for (uint64_t c = 0; c < n; ++c) {
    if (deviation[c] <= kMinLog) continue;
    sum += deviation[c] - column_step[c];
    count += 1;
  }
  return count > 0 ? sum / count : 0;
}

StepProfile profile_tensor(std::span<const float> w, uint64_t m, uint64_t n, const TensorImportance& importance,
                           Importance by, bool row_classes) {
  assert(w.size() == m * n);
  StepProfile out;
  out.m = m;
  out.n = n;
  if (row_classes) choose_row_steps(importance.row_importance, &out);
  measure_columns(w, &out);
  if (row_classes) choose_classes(w, &out);
  choose_column_steps(importance, by, &out);
  out.class_weight.assign(kNumContexts, 0.0);
  for (const uint8_t c : out.row_class) out.class_weight[c] += 1.0 / static_cast<double>(m);
  if (out.row_class.empty()) out.class_weight[0] = 1;
  return out;
}

TensorSteps choose_steps(const StepProfile& profile, const CodecRecord& ladder, double log_step) {
  TensorSteps out;
  out.row_class = profile.row_class;
  out.level.resize(profile.n);
  std::vector<double> wanted(profile.n);
  const double finest = ladder.num_levels - 1.0;
  for (uint64_t c = 0; c < profile.n; ++c) {
    if (profile.deviation[c] <= kMinLog) continue;  // an empty column: scale 0
    const double step = std::max(profile.column_step[c] + log_step, profile.peak[c] - kMaxLatentLog);
    const double octaves = profile.deviation[c] - step;
    if (ladder.synthesis.width == 0) {
      const double position = std::clamp(std::round(ladder_position(octaves)), 0.0, finest);
      out.level[c] = static_cast<uint8_t>(position);
      wanted[c] = std::exp2(step) / ladder.step[out.level[c]];
    } else {
      // A network's levels are far apart: of columns that want to lie between two, the later ones get the finer.
      const double position = std::clamp(level_of_rate(ladder, rate_of_octaves(ladder, octaves)), 0.0, finest);
      const double dither = (static_cast<double>(c) + 0.5) / static_cast<double>(profile.n);
      out.level[c] = static_cast<uint8_t>(std::floor(std::min(finest, position + dither)));
      wanted[c] = std::exp2(std::max(profile.deviation[c], profile.peak[c] - std::log2(100.0)));
    }
  }
  out.scales.column = encode_scales(wanted);
  if (!profile.row_step.empty()) {
    std::vector<double> rows(profile.m);
    for (uint64_t r = 0; r < profile.m; ++r) rows[r] = std::exp2(profile.row_step[r]);
    out.scales.row = encode_scales(rows);
  }
  return out;
}

StepRange step_range(const StepProfile& profile, const CodecRecord& ladder) {
  const bool linear = ladder.synthesis.width == 0;
  StepRange range{INFINITY, -INFINITY};
  for (uint64_t c = 0; c < profile.n; ++c) {
    if (profile.deviation[c] <= kMinLog) continue;
    const double finest =
        linear ? profile.peak[c] - kMaxLatentLog : profile.deviation[c] - octaves_of_rate(ladder, ladder.rate.back());
    const double coarsest = linear ? profile.peak[c] + kAllZeroOctaves
                                   : profile.deviation[c] - octaves_of_rate(ladder, ladder.rate.front());
    range.finest = std::min(range.finest, finest - profile.column_step[c]);
    range.coarsest = std::max(range.coarsest, coarsest - profile.column_step[c]);
  }
  return range;
}

double expected_rate(const StepProfile& profile, const CodecRecord& ladder, double log_step) {
  double bits = 0;
  for (uint64_t c = 0; c < profile.n; ++c) {
    if (profile.deviation[c] <= kMinLog) continue;
    const double octaves = profile.deviation[c] - profile.column_step[c] - log_step;
    for (uint32_t k = 0; k < kNumContexts; ++k) {
      if (profile.class_weight[k] == 0) continue;
      const double of_class = rungs_of_class(static_cast<uint8_t>(k)) * (ladder_octaves(1) - ladder_octaves(0));
      bits += profile.class_weight[k] * rate_of_octaves(ladder, octaves + of_class);
    }
  }
  return bits / static_cast<double>(profile.n);
}

}  // namespace nwc
