#include "trainer/search/quantize.h"

#include <algorithm>
#include <cmath>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "runtime/base/half.h"
#include "trainer/linalg/multiply.h"
#include "trainer/nn/matrix.h"
#include "trainer/nn/mlp.h"
#include "trainer/nn/random.h"
#include "trainer/search/latent_search.h"

namespace nwc {
namespace {

constexpr uint32_t kStepsPerOctave = 8;
constexpr uint32_t kMaxCode = 255;
constexpr uint64_t kFeedbackBlock = 64;  ///< columns after which the feedback reaches all that follow, as one product
constexpr uint64_t kPieceCols = 64;      ///< columns of a unit of work without feedback

/// Squared error of one step's quantizer, in squared steps: an interval of one step; with a trellis, banks two steps
/// apart less its gain of about 0.17 bits.
double distortion_of_a_step(const CodecRecord& codec) {
  return codec.quantizer == Quantizer::kTrellis ? 0.263 : 1.0 / 12;
}

/// How much a squared error of each latent channel weighs in the output: the squared norms of g_s's Jacobian's columns,
/// mean 1 over the channels. Averaged over latents of unit deviation where g_s is not linear.
std::vector<float> channel_sensitivity(const CodecRecord& codec, uint8_t level) {
  constexpr size_t kProbes = 32;
  constexpr float kDelta = 1.0f / 64;
  std::vector<float> z((kChunk + 1) * kProbes * kChunk);
  Random random({1});
  for (size_t p = 0; p < kProbes; ++p) {
    for (size_t i = 0; i < kChunk; ++i) z[p * kChunk + i] = static_cast<float>(random.normal());
    for (size_t c = 0; c < kChunk; ++c) {
      float* moved = z.data() + ((c + 1) * kProbes + p) * kChunk;
      std::copy_n(z.data() + p * kChunk, kChunk, moved);
      moved[c] += kDelta;
    }
  }
  std::vector<float> y(z.size());
  apply_network(codec.synthesis, codec.num_levels, z, std::vector<uint8_t>(z.size() / kChunk, level).data(), y);
  std::vector<float> out(kChunk, 0.0f);
  for (size_t c = 0; c < kChunk; ++c) {
    for (size_t i = 0; i < kProbes * kChunk; ++i) {
      const float d = (y[(c + 1) * kProbes * kChunk + i] - y[i]) / kDelta;
      out[c] += d * d;
    }
  }
  float mean = 0;
  for (const float v : out) mean += v / kChunk;
  for (float& v : out) v = mean > 0 ? std::max(v / mean, 0.01f) : 1.0f;
  return out;
}

void round_to_half(std::span<float> v) {
  size_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= v.size(); i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(&v[i]), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_ps(&v[i], _mm256_cvtph_ps(half));
  }
#endif
  for (; i < v.size(); ++i) v[i] = f16_to_f32(f32_to_f16(v[i]));
}

/// Whether f16 holds such weights: none that it makes infinite, and most of them not so small that it rounds them
/// coarsely or to 0. A session takes a wider type for others (why_not_f16), so their errors are not those of f16.
bool fits_half(std::span<const float> w) {
  constexpr float kLarge = 65504.0f / 2;  // leaves room for the errors of decoded values
  constexpr float kSmall = 0x1p-16f;
  uint64_t small = 0, nonzero = 0;
  for (const float v : w) {
    const float size = std::abs(v);
    if (size > kLarge) return false;
    nonzero += size > 0;
    small += size > 0 && size < kSmall;
  }
  return 2 * small <= nonzero;
}

/// What all units of work share.
struct Shared {
  const QuantizeJob& job;
  bool identity;
  bool half;                                    ///< decoded weights are rounded to f16, as a session would
  std::vector<std::vector<float>> sensitivity;  ///< [K][16]
  std::vector<float> inverse_row;               ///< [m], or empty
};

/// One band of rows, some or all columns. Everything is column-major: a column's rows lie together.
class Band {
 public:
  explicit Band(const Shared& shared)
      : shared_(shared),
        job_(shared.job),
        search_(job_.codec.record, job_.costs,
                job_.rdo_strength * 2 * std::log(2.0) * distortion_of_a_step(job_.codec.record)) {}

  void run(uint64_t row, uint64_t col_begin, uint64_t col_end, QuantizedTensor* out, QuantizeStatistics* statistics,
           ValueStatistics* values) {
    height_ = std::min<uint64_t>(job_.tile_rows, job_.m - row);
    padded_ = align_up(height_, uint64_t{kChunk});
    load(row, col_begin, col_end);
    const uint64_t width = col_end - col_begin;
    const FeedbackFactors* feedback = job_.feedback;
    for (uint64_t block = 0; block < width; block += kFeedbackBlock) {
      const uint64_t end = std::min(width, block + kFeedbackBlock);
      for (uint64_t k = block; k < end; ++k) {
        quantize_column(row, col_begin + k, k, out, statistics, values);
        if (feedback == nullptr) continue;
        const float* e = error_.data() + k * padded_;
        const float* upper = feedback->upper.data() + k * job_.n;
        for (uint64_t j = k + 1; j < end; ++j) {
          float* target = wanted_.data() + j * padded_;
          const float f = upper[j];
          for (uint64_t i = 0; i < padded_; ++i) target[i] += f * e[i];
        }
      }
      if (feedback == nullptr || end == width) continue;
      // wanted[end ..][rows] += U[block .. end][end ..]^T error[block .. end][rows]
      const auto rows = eigen_index(padded_);
      const ConstMatrixMap<float> e(error_.data() + block * padded_, eigen_index(end - block), rows);
      MatrixMap<float> rest(wanted_.data() + end * padded_, eigen_index(width - end), rows);
      const ConstMatrixMap<float> upper(feedback->upper.data(), eigen_index(job_.n), eigen_index(job_.n));
      multiply<float>(
          Form::kAtB,
          upper.block(eigen_index(block), eigen_index(end), eigen_index(end - block), eigen_index(width - end)), e,
          true, rest);
    }
  }

 private:
  void load(uint64_t row, uint64_t col_begin, uint64_t col_end) {
    const uint64_t width = col_end - col_begin;
    wanted_.assign(width * padded_, 0.0f);
    for (uint64_t i = 0; i < height_; ++i) {
      const float* from = job_.w.data() + (row + i) * job_.n + col_begin;
      for (uint64_t k = 0; k < width; ++k) wanted_[k * padded_ + i] = from[k];
    }
    original_ = wanted_;
    error_.resize(width * padded_);
    const uint64_t chunks = padded_ / kChunk;
    for (std::vector<float>* v : {&x_, &u_, &decoded_}) v->resize(padded_);
    levels_.resize(chunks);
    q_.resize(padded_);
    context_.resize(padded_);
    weight_.resize(padded_);
    const bool by_row = job_.codec.record.context_kind == ContextKind::kRowClass;
    for (uint64_t i = 0; i < padded_; ++i) {
      const bool inside = i < height_ && !job_.steps.row_class.empty();
      context_[i] = static_cast<uint8_t>(!by_row ? i % kChunk : inside ? job_.steps.row_class[row + i] : 0);
    }
  }

  void quantize_column(uint64_t row, uint64_t column, uint64_t k, QuantizedTensor* out, QuantizeStatistics* statistics,
                       ValueStatistics* values) {
    const CodecModel& codec = job_.codec;
    const uint8_t level = job_.steps.level[column];
    const float scale = job_.steps.scales.column.value[column];
    const float step = codec.record.step[level];
    const float* wanted = wanted_.data() + k * padded_;
    const float* row_inverse = shared_.inverse_row.empty() ? nullptr : shared_.inverse_row.data() + row;
    const float* row_scale = row_inverse == nullptr ? nullptr : job_.steps.scales.row.value.data() + row;
    const float inverse = scale > 0 ? 1 / scale : 0;
    for (uint64_t i = 0; i < padded_; ++i)
      x_[i] = i < height_ ? wanted[i] * inverse * (row_inverse != nullptr ? row_inverse[i] : 1.0f) : 0.0f;
    std::fill(levels_.begin(), levels_.end(), level);
    if (shared_.identity) {
      for (uint64_t i = 0; i < padded_; ++i) u_[i] = x_[i] / step;
    } else {
      analyze_chunks(codec, x_, levels_.data(), u_);
    }
    // Rows beyond the matrix cost bits but no error. So do columns and rows without a scale; there zero is the
    // cheapest.
    const float* sensitivity = shared_.sensitivity[level].data();
    const bool mixes = !shared_.identity;
    for (uint64_t i = 0; i < padded_; ++i) {
      const bool counts = mixes ? i / kChunk * kChunk < height_ : i < height_;
      weight_[i] = counts ? sensitivity[i % kChunk] : 0.0f;
    }
    search_.search(level, u_, context_.data(), weight_.data(), q_.data());
    for (uint64_t i = 0; i < padded_; ++i) decoded_[i] = search_.dequantize(level, q_[i]) * step;
    if (values != nullptr) count(level, values);
    if (!shared_.identity) {
      x_.swap(decoded_);
      apply_network(codec.record.synthesis, codec.record.num_levels, x_, levels_.data(), decoded_);
    }
    for (uint64_t i = 0; i < padded_; ++i)
      decoded_[i] *= i >= height_ ? 0.0f : row_scale != nullptr ? scale * row_scale[i] : scale;
    if (shared_.half) round_to_half(decoded_);
    float* e = error_.data() + k * padded_;
    const float* w = original_.data() + k * padded_;
    for (uint64_t i = 0; i < padded_; ++i) e[i] = w[i] - decoded_[i];

    if (!job_.decoded.empty()) {
      for (uint64_t i = 0; i < height_; ++i) job_.decoded[(row + i) * job_.n + column] = decoded_[i];
    }
    for (uint64_t c = 0; c < levels_.size(); ++c) {
      std::copy_n(q_.begin() + static_cast<ptrdiff_t>(c * kChunk), kChunk,
                  out->values.begin() + static_cast<ptrdiff_t>(((row / kChunk + c) * job_.n + column) * kChunk));
    }
    if (statistics == nullptr) return;
    const double importance = job_.feedback != nullptr ? job_.feedback->diagonal[column] : 1.0;
    const double added = job_.feedback != nullptr ? job_.feedback->added : 0.0;
    double squared = 0, power = 0, weighted = 0;
    for (uint64_t i = 0; i < height_; ++i) {
      const double own = double{wanted[i]} - decoded_[i];
      squared += double{e[i]} * e[i];
      power += double{w[i]} * w[i];
      weighted += (importance * own * own - added * double{e[i]} * e[i]) *
                  (job_.row_importance.empty() ? 1.0 : job_.row_importance[row + i]);
    }
    statistics->squared_error += squared;
    statistics->squared_weight += power;
    statistics->weighted_error += weighted;
    double bits = 0;
    for_each_value(
        [&](uint64_t i, uint32_t bank, int16_t value) { bits += job_.costs.bits(level, context_[i], bank, value); });
    statistics->ideal_bits += bits;
  }

  /// f(row, bank, value) down the column: what entropy coding makes of q_.
  template <typename F>
  void for_each_value(F&& f) const {
    const Trellis* trellis = find_trellis(job_.codec.record.trellis_bits);
    uint16_t state = 0;
    for (uint64_t i = 0; i < padded_; ++i) {
      const uint32_t bank = trellis != nullptr ? Trellis::bank(state) : 0;
      const int16_t value = trellis != nullptr ? trellis_value(q_[i], bank) : q_[i];
      f(i, bank, value);
      if (trellis != nullptr) state = trellis->next(state, value);
    }
  }

  void count(uint8_t level, ValueStatistics* values) const {
    for_each_value([&](uint64_t i, uint32_t bank, int16_t value) {
      values->histograms[(level * kNumContexts + context_[i]) * values->banks + bank].add(value);
      if (q_[i] == 0 || weight_[i] == 0) return;
      // In whole units, so that the sum does not depend on the order of summation.
      values->excess[level] += std::round(ValueStatistics::kExcessUnit * (q_[i] > 0 ? q_[i] - u_[i] : u_[i] - q_[i]));
      values->nonzero[level] += 1;
    });
  }

  const Shared& shared_;
  const QuantizeJob& job_;
  LatentSearch search_;
  uint64_t height_ = 0, padded_ = 0;
  std::vector<float> original_, wanted_, error_;  ///< [columns][padded rows]
  std::vector<float> x_, u_, decoded_, weight_;   ///< one column
  std::vector<uint8_t> levels_, context_;
  std::vector<int16_t> q_;
};

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

void QuantizeStatistics::add(const QuantizeStatistics& other) {
  squared_error += other.squared_error;
  squared_weight += other.squared_weight;
  ideal_bits += other.ideal_bits;
  weighted_error += other.weighted_error;
}

ValueStatistics::ValueStatistics(const CodecRecord& codec)
    : banks(codec.num_banks()),
      histograms(size_t{codec.num_levels} * kNumContexts * codec.num_banks()),
      excess(codec.num_levels, 0.0),
      nonzero(codec.num_levels, 0.0) {}

void ValueStatistics::add(const ValueStatistics& other, double factor) {
  for (size_t i = 0; i < histograms.size(); ++i) histograms[i].add(other.histograms[i], factor);
  for (size_t l = 0; l < excess.size(); ++l) {
    excess[l] += factor * other.excess[l];
    nonzero[l] += factor * other.nonzero[l];
  }
}

QuantizedTensor quantize_tensor(const QuantizeJob& job, Runner& runner, QuantizeStatistics* statistics,
                                ValueStatistics* values) {
  assert(job.w.size() == job.m * job.n && job.steps.level.size() == job.n && job.tile_rows % kChunk == 0);
  QuantizedTensor out;
  out.m = job.m;
  out.n = job.n;
  out.scales = job.steps.scales;
  out.level = job.steps.level;
  out.row_class = job.steps.row_class;
  out.tile_rows = job.tile_rows;
  out.values.resize(ceil_div(job.m, uint64_t{kChunk}) * job.n * kChunk);

  Shared shared{
      job, job.codec.analysis.is_identity() && job.codec.record.synthesis.is_identity(), fits_half(job.w), {}, {}};
  for (uint32_t level = 0; level < job.codec.record.num_levels; ++level) {
    shared.sensitivity.push_back(shared.identity ? std::vector<float>(kChunk, 1.0f)
                                                 : channel_sensitivity(job.codec.record, static_cast<uint8_t>(level)));
  }
  for (const float r : job.steps.scales.row.value) shared.inverse_row.push_back(r > 0 ? 1 / r : 0);

  const uint64_t width = job.feedback != nullptr ? job.n : kPieceCols;
  const uint64_t across = ceil_div(job.n, width);
  const uint64_t units = across * ceil_div(job.m, uint64_t{job.tile_rows});
  std::vector<QuantizeStatistics> sums(statistics != nullptr ? units : 0);
  std::vector<std::unique_ptr<Band>> bands(runner.num_workers());
  std::vector<std::unique_ptr<ValueStatistics>> counts(runner.num_workers());
  parallel_for(runner, static_cast<uint32_t>(units), [&](uint32_t unit, uint32_t worker) {
    if (bands[worker] == nullptr) {
      bands[worker] = std::make_unique<Band>(shared);
      if (values != nullptr) counts[worker] = std::make_unique<ValueStatistics>(job.codec.record);
    }
    const uint64_t column = unit % across * width;
    bands[worker]->run(unit / across * job.tile_rows, column, std::min(job.n, column + width), &out,
                       statistics != nullptr ? &sums[unit] : nullptr, counts[worker].get());
  });
  for (const QuantizeStatistics& sum : sums) statistics->add(sum);
  // All sums are of whole numbers: they do not depend on how the units were shared out.
  for (const std::unique_ptr<ValueStatistics>& c : counts) {
    if (c != nullptr) values->add(*c, 1);
  }
  return out;
}

}  // namespace nwc
