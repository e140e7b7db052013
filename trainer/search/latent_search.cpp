#include "trainer/search/latent_search.h"

#include <algorithm>
#include <cmath>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace nwc {
namespace {

constexpr float kMaxLatent = 16000;   ///< 2 k fits an i16 whatever the bank
constexpr float kUnitsOfStep = 1024;  ///< in which metrics count a squared step with the largest weight

}  // namespace

LatentSearch::LatentSearch(const CodecRecord& codec, const TableCosts& costs, double lambda)
    : codec_(codec), trellis_(find_trellis(codec.trellis_bits)), shrink_(codec.shrink) {
  for (uint32_t t = 0; t < codec.tables.size(); ++t) {
    const FrequencyTable& table = codec.tables[t];
    const int32_t unit = 1 << table.raw_bits;
    Row& r = rows_.emplace_back();
    r.first = table.min * unit - 1;
    r.count = (static_cast<int32_t>(table.freq.size()) - 1) * unit + 2;
    r.start = static_cast<uint32_t>(prices_.size());
    for (int32_t i = 0; i < r.count; ++i) prices_.push_back(static_cast<float>(lambda * costs.bits(t, r.first + i)));
  }
  if (trellis_ != nullptr) forward_ = viterbi_forward(*trellis_, detect_cpu_level());
}

void LatentSearch::round(uint8_t level, std::span<const float> u, const uint8_t* context, const float* weight,
                         int16_t* q) const {
  const float shrink = shrink_[level];
  for (size_t i = 0; i < u.size(); ++i) {
    const Row& r = row(level, context[i], 0);
    const float magnitude = std::min(std::abs(u[i]), kMaxLatent);
    const int32_t sign = u[i] < 0 ? -1 : 1;
    const auto cost = [&](int32_t a) {
      const float error = magnitude - (a > 0 ? static_cast<float>(a) - shrink : 0.0f);
      return weight[i] * (error * error) + price(r, sign * a);
    };
    const auto below = static_cast<int32_t>(magnitude);
    int32_t best = below;
    float least = cost(below);
    for (const int32_t a : {below + 1, 0}) {
      if (const float c = cost(a); c < least) least = c, best = a;
    }
    q[i] = static_cast<int16_t>(sign * best);
  }
}

// The four sets of points, by bank * 2 + parity of k. A magnitude's neighbours in a set are kOffset + 4 j and 4 more.
// Below zero that rule leaves bank 1's sets, whose points mirror each other: kBelow puts it right.
void LatentSearch::choose(uint8_t level, uint32_t context, float u, float weight, float unit, Choice* choice,
                          BranchMetrics* metrics) const {
  const float magnitude = std::min(std::abs(u), kMaxLatent);
  const float shrink = shrink_[level];
  const int32_t sign = u < 0 ? -1 : 1;
  const Row& even = row(level, context, 0);
  const Row& odd = row(level, context, 1);
#if defined(__AVX2__)
  // Lanes 0-3: the lower candidates of the four sets, 4-7: the upper ones. The twin of the loop below.
  const __m256 a = _mm256_set1_ps(magnitude);
  const __m256i offset = _mm256_setr_epi32(0, 2, 3, 1, 0, 2, 3, 1);
  const __m256 quarter = _mm256_mul_ps(_mm256_sub_ps(a, _mm256_cvtepi32_ps(offset)), _mm256_set1_ps(0.25f));
  const __m256i base = _mm256_cvttps_epi32(_mm256_floor_ps(quarter));
  __m256i m =
      _mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(base, 2), offset), _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
  const __m256i negative = _mm256_srai_epi32(m, 31);
  m = _mm256_add_epi32(m, _mm256_and_si256(negative, _mm256_setr_epi32(0, 0, 1, 2, 0, 0, 0, 0)));
  const __m256i sign_m = _mm256_sign_epi32(_mm256_set1_epi32(1), m);
  const __m256 point =
      _mm256_sub_ps(_mm256_cvtepi32_ps(m), _mm256_mul_ps(_mm256_cvtepi32_ps(sign_m), _mm256_set1_ps(shrink)));
  const __m256 error = _mm256_sub_ps(a, point);
  const __m256 distortion = _mm256_mul_ps(_mm256_set1_ps(weight), _mm256_mul_ps(error, error));
  const __m256i q = _mm256_sign_epi32(m, _mm256_set1_epi32(sign));
  const __m256i in_odd = _mm256_setr_epi32(0, 0, -1, -1, 0, 0, -1, -1);
  const __m256i k =
      _mm256_srai_epi32(_mm256_add_epi32(q, _mm256_and_si256(in_odd, _mm256_sign_epi32(_mm256_set1_epi32(1), q))), 1);
  const auto of_banks = [](int32_t e, int32_t o) { return _mm256_setr_epi32(e, e, o, o, e, e, o, o); };
  __m256i index = _mm256_sub_epi32(k, of_banks(even.first, odd.first));
  index = _mm256_min_epi32(_mm256_max_epi32(index, _mm256_setzero_si256()), of_banks(even.count - 1, odd.count - 1));
  index = _mm256_add_epi32(index, of_banks(static_cast<int32_t>(even.start), static_cast<int32_t>(odd.start)));
  const __m256 cost = _mm256_add_ps(distortion, _mm256_i32gather_ps(prices_.data(), index, 4));
  const __m128 lower = _mm256_castps256_ps128(cost), upper = _mm256_extractf128_ps(cost, 1);
  const __m128i up = _mm_castps_si128(_mm_cmplt_ps(upper, lower));
  const __m128i nearer = _mm_blendv_epi8(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1), up);
  _mm_storeu_si64(choice->q, _mm_packs_epi32(nearer, nearer));
  const __m128 best = _mm_min_ps(upper, lower);
  const __m128 of_two = _mm_min_ps(best, _mm_shuffle_ps(best, best, 0xb1));
  const __m128 least = _mm_min_ps(of_two, _mm_shuffle_ps(of_two, of_two, 0x4e));
  const __m128 more = _mm_mul_ps(_mm_sub_ps(best, least), _mm_set1_ps(unit));
  const __m128i metric = _mm_cvtps_epi32(_mm_min_ps(more, _mm_set1_ps(kMaxBranchMetric)));
  _mm_storeu_si64(metrics->of_set, _mm_packus_epi32(metric, metric));
#else
  constexpr int32_t kOffset[4] = {0, 2, 3, 1};
  constexpr int32_t kBelow[4] = {0, 0, 1, 2};
  float best[4];
  for (uint32_t set = 0; set < 4; ++set) {
    const uint32_t bank = set / 2;
    const int32_t low =
        4 * static_cast<int32_t>(std::floor((magnitude - static_cast<float>(kOffset[set])) * 0.25f)) + kOffset[set];
    best[set] = INFINITY;
    for (const int32_t m : {low < 0 ? low + kBelow[set] : low, low + 4}) {
      const float error = magnitude - (static_cast<float>(m) - static_cast<float>((m > 0) - (m < 0)) * shrink);
      const auto q = static_cast<int16_t>(sign * m);
      const float cost = weight * (error * error) + price(bank == 0 ? even : odd, trellis_value(q, bank));
      if (cost < best[set]) best[set] = cost, choice->q[set] = q;
    }
  }
  const float least = *std::min_element(best, best + 4);
  for (uint32_t set = 0; set < 4; ++set) {
    const float more = std::min((best[set] - least) * unit, static_cast<float>(kMaxBranchMetric));
    metrics->of_set[set] = static_cast<uint16_t>(std::lrint(more));
  }
#endif
}

void LatentSearch::search(uint8_t level, std::span<const float> u, const uint8_t* context, const float* weight,
                          int16_t* q) {
  if (trellis_ == nullptr) return round(level, u, context, weight, q);
  const size_t bytes = decision_bytes(*trellis_);
  choices_.resize(u.size());
  metrics_.resize(u.size());
  decisions_.resize(u.size() * bytes);
  float heaviest = 0;
  for (size_t i = 0; i < u.size(); ++i) heaviest = std::max(heaviest, weight[i]);
  const float unit = kUnitsOfStep / (heaviest > 0 ? heaviest : 1.0f);
  for (size_t i = 0; i < u.size(); ++i) choose(level, context[i], u[i], weight[i], unit, &choices_[i], &metrics_[i]);
  uint16_t state = forward_(*trellis_, metrics_, decisions_.data());
  for (size_t i = u.size(); i-- > 0;) {
    const uint32_t parity = decisions_[i * bytes + state / 8] >> state % 8 & 1u;
    q[i] = choices_[i].q[2 * (state >= trellis_->num_states() / 2 ? 1 : 0) + parity];
    state = previous_state(*trellis_, state, parity);
  }
}

}  // namespace nwc
