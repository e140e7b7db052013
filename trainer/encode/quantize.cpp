#include "trainer/encode/quantize.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/cpu_features.h"
#include "runtime/codec/synthesis.h"

namespace nwc {
namespace {

constexpr uint32_t kStepsPerOctave = 8;
constexpr uint32_t kMaxCode = 255;
constexpr double kMaxPeak = 100;  ///< weight over scale, at most
constexpr int kScaleRounds = 3;
constexpr float kMaxLatent = 32000;

// Work is cut into fixed pieces, so that every batch that the analysis network sees, and with it every rounding error,
// is the same whatever the number of threads. 4,096 chunks: 256 KiB of latents.
constexpr uint64_t kPieceCols = 64;
constexpr uint64_t kPieceRowBlocks = 64;

/// sum[j] over rows of (w / row)^2, and peak[j] = max |w / row|, for columns [begin, end).
void column_moments(std::span<const float> w, uint64_t m, uint64_t n, std::span<const float> inverse_row,
                    uint64_t begin, uint64_t end, double* sum, double* peak) {
  for (uint64_t j = begin; j < end; ++j) sum[j] = peak[j] = 0;
  for (uint64_t i = 0; i < m; ++i) {
    const double r = inverse_row.empty() ? 1.0 : inverse_row[i];
    for (uint64_t j = begin; j < end; ++j) {
      const double v = w[i * n + j] * r;
      sum[j] += v * v;
      peak[j] = std::max(peak[j], std::abs(v));
    }
  }
}

std::vector<float> inverse(std::span<const float> v) {
  std::vector<float> out(v.size());
  for (size_t i = 0; i < v.size(); ++i) out[i] = v[i] > 0 ? 1 / v[i] : 0;
  return out;
}

ScaleCodes fit_columns(std::span<const float> w, uint64_t m, uint64_t n, std::span<const float> inverse_row,
                       Runner& runner) {
  std::vector<double> sum(n), peak(n);
  parallel_for(runner, static_cast<uint32_t>(ceil_div(n, kPieceCols)), [&](uint32_t piece, uint32_t) {
    const uint64_t begin = piece * kPieceCols;
    column_moments(w, m, n, inverse_row, begin, std::min(n, begin + kPieceCols), sum.data(), peak.data());
  });
  for (uint64_t j = 0; j < n; ++j) sum[j] = std::max(std::sqrt(sum[j] / static_cast<double>(m)), peak[j] / kMaxPeak);
  return encode_scales(sum);
}

ScaleCodes fit_rows(std::span<const float> w, uint64_t m, uint64_t n, std::span<const float> inverse_column,
                    Runner& runner) {
  std::vector<double> wanted(m);
  parallel_for(runner, static_cast<uint32_t>(ceil_div(m, kChunk)), [&](uint32_t piece, uint32_t) {
    for (uint64_t i = uint64_t{piece} * kChunk; i < std::min<uint64_t>(m, (uint64_t{piece} + 1) * kChunk); ++i) {
      double sum = 0;
      for (uint64_t j = 0; j < n; ++j) {
        const double v = double{w[i * n + j]} * inverse_column[j];
        sum += v * v;
      }
      wanted[i] = std::sqrt(sum / static_cast<double>(n));
    }
  });
  return encode_scales(wanted);
}

}  // namespace

ScaleCodes encode_scales(std::span<const double> wanted) {
  ScaleCodes out;
  double least = 0, largest = 0;
  for (double s : wanted) {
    if (s > 0) least = least > 0 ? std::min(least, s) : s;
    largest = std::max(largest, s);
  }
  constexpr double kSpan = double{kMaxCode - 1} / kStepsPerOctave;
  least = std::max({least, largest * std::exp2(-kSpan), 0x1p-126});
  out.base = largest > 0 ? static_cast<float>(least) : 1.0f;
  out.code.resize(wanted.size());
  out.value.resize(wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] > 0) {
      const double steps = std::round(kStepsPerOctave * std::log2(wanted[i] / out.base));
      out.code[i] = static_cast<uint8_t>(1 + std::clamp(steps, 0.0, double{kMaxCode - 1}));
      // The top of the range of f32: never an infinite scale.
      while (out.code[i] > 1 && std::isinf(scale_from_code(out.code[i], out.base))) --out.code[i];
    }
    out.value[i] = scale_from_code(out.code[i], out.base);
  }
  return out;
}

TensorScales fit_scales(std::span<const float> w, uint64_t m, uint64_t n, bool row_scales, Runner& runner) {
  TensorScales out;
  out.column = fit_columns(w, m, n, {}, runner);
  if (!row_scales) return out;
  for (int round = 0; round < kScaleRounds; ++round) {
    out.row = fit_rows(w, m, n, inverse(out.column.value), runner);
    out.column = fit_columns(w, m, n, inverse(out.row.value), runner);
  }
  return out;
}

void round_chunks(const CodecRecord& codec, const TableCosts& costs, const Rounding& rounding, std::span<const float> u,
                  const uint8_t* level, std::span<int16_t> k) {
  assert(u.size() == k.size());
  const float lambda = static_cast<float>(rounding.rdo_strength * 2 * std::log(2.0) / 12);
  for (size_t c = 0; c < u.size() / kChunk; ++c) {
    const float shrink = codec.shrink[level[c]];
    for (uint32_t i = 0; i < kChunk; ++i) {
      const float v = u[c * kChunk + i];
      const float latent = v > -kMaxLatent ? std::min(v, kMaxLatent) : -kMaxLatent;
      int16_t& out = k[c * kChunk + i];
      if (lambda <= 0) {
        out = static_cast<int16_t>(std::lrint(latent));
        continue;
      }
      const float magnitude = std::abs(latent);
      const int32_t sign = latent < 0 ? -1 : 1;
      const int32_t below = static_cast<int32_t>(magnitude);
      const uint32_t table = costs.table_of(level[c], i, 0);
      const auto cost = [&](int32_t a) {
        const float error = magnitude - (a > 0 ? static_cast<float>(a) - shrink : 0.0f);
        return error * error + lambda * costs.bits(table, sign * a);
      };
      int32_t best = below;
      float least = cost(below);
      for (const int32_t a : {below + 1, 0}) {
        const float candidate = cost(a);
        if (candidate < least) least = candidate, best = a;
      }
      out = static_cast<int16_t>(sign * best);
    }
  }
}

QuantizedTensor quantize_tensor(const CodecModel& codec, const TableCosts& costs, const Rounding& rounding,
                                std::span<const float> w, uint64_t m, uint64_t n, TensorScales scales,
                                std::vector<uint8_t> level, Runner& runner, QuantizeStatistics* statistics,
                                std::vector<ValueHistogram>* histograms) {
  assert(w.size() == m * n && level.size() == n);
  QuantizedTensor out;
  out.m = m;
  out.n = n;
  out.scales = std::move(scales);
  out.level = std::move(level);
  const uint64_t row_blocks = ceil_div(m, kChunk);
  out.values.resize(row_blocks * n * kChunk);
  const std::vector<float> inverse_column = inverse(out.scales.column.value);
  const std::vector<float> inverse_row = inverse(out.scales.row.value);
  const CpuLevel cpu = detect_cpu_level();

  const uint64_t across = ceil_div(n, kPieceCols);
  const uint64_t pieces = across * ceil_div(row_blocks, kPieceRowBlocks);
  std::vector<QuantizeStatistics> sums(pieces);
  struct Scratch {
    std::vector<float> x, u;
    std::vector<int16_t> k;
    std::vector<uint8_t> level;
    std::vector<ValueHistogram> histograms;
  };
  std::vector<Scratch> scratch(runner.num_workers());
  parallel_for(runner, static_cast<uint32_t>(pieces), [&](uint32_t piece, uint32_t worker) {
    const uint64_t c0 = piece % across * kPieceCols, c1 = std::min(n, c0 + kPieceCols);
    const uint64_t r0 = piece / across * kPieceRowBlocks, r1 = std::min(row_blocks, r0 + kPieceRowBlocks);
    const uint64_t width = c1 - c0;
    Scratch& s = scratch[worker];
    const size_t chunks = static_cast<size_t>((r1 - r0) * width);
    s.x.assign(chunks * kChunk, 0);
    s.u.resize(chunks * kChunk);
    s.k.resize(chunks * kChunk);
    s.level.resize(chunks);
    for (uint64_t row = r0 * kChunk; row < std::min(m, r1 * kChunk); ++row) {
      const float r = inverse_row.empty() ? 1.0f : inverse_row[row];
      float* x = s.x.data() + (row / kChunk - r0) * width * kChunk + row % kChunk;
      for (uint64_t j = 0; j < width; ++j) x[j * kChunk] = w[row * n + c0 + j] * inverse_column[c0 + j] * r;
    }
    for (size_t c = 0; c < chunks; ++c) s.level[c] = out.level[c0 + c % width];
    analyze_chunks(codec, s.x, s.level.data(), s.u);
    round_chunks(codec.record, costs, rounding, s.u, s.level.data(), s.k);
    for (uint64_t rb = r0; rb < r1; ++rb) {
      std::copy_n(s.k.begin() + static_cast<ptrdiff_t>((rb - r0) * width * kChunk), width * kChunk,
                  out.values.begin() + static_cast<ptrdiff_t>((rb * n + c0) * kChunk));
    }
    if (statistics != nullptr) {
      QuantizeStatistics& sum = sums[piece];
      synthesize_chunks(cpu, codec.record, s.k, s.level.data(), s.u);
      for (uint64_t row = r0 * kChunk; row < std::min(m, r1 * kChunk); ++row) {
        const float r = inverse_row.empty() ? 1.0f : out.scales.row.value[row];
        const float* y = s.u.data() + (row / kChunk - r0) * width * kChunk + row % kChunk;
        for (uint64_t j = 0; j < width; ++j) {
          const double v = w[row * n + c0 + j];
          const double e = v - double{y[j * kChunk]} * out.scales.column.value[c0 + j] * r;
          sum.squared_error += e * e;
          sum.squared_weight += v * v;
        }
      }
      for (size_t c = 0; c < chunks; ++c) {
        for (uint32_t i = 0; i < kChunk; ++i) sum.ideal_bits += costs.bits(s.level[c], i, 0, s.k[c * kChunk + i]);
      }
    }
    if (histograms != nullptr) {
      s.histograms.resize(histograms->size());
      for (size_t c = 0; c < chunks; ++c) {
        for (uint32_t i = 0; i < kChunk; ++i) s.histograms[s.level[c] * kChunk + i].add(s.k[c * kChunk + i]);
      }
    }
  });
  if (statistics != nullptr) {
    for (const QuantizeStatistics& sum : sums) {
      statistics->squared_error += sum.squared_error;
      statistics->squared_weight += sum.squared_weight;
      statistics->ideal_bits += sum.ideal_bits;
    }
  }
  if (histograms != nullptr) {
    for (const Scratch& s : scratch) {
      for (size_t i = 0; i < s.histograms.size(); ++i) (*histograms)[i].add(s.histograms[i]);
    }
  }
  return out;
}

}  // namespace nwc
