#include "trainer/search/latent_search.h"

#include <algorithm>
#include <cmath>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace nwc {
namespace {

constexpr float kMaxLatent = 16000;  ///< 2 k fits an i16 whatever the bank
constexpr float kUnreachable = 1e30f;
constexpr uint32_t kMaxStates = 1u << 12;
constexpr size_t kRescaleEvery = 64;  ///< samples after which metrics are brought back to near 0

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
LatentSearch::Choice LatentSearch::choose(uint8_t level, uint32_t context, float u, float weight) const {
  const float magnitude = std::min(std::abs(u), kMaxLatent);
  const float shrink = shrink_[level];
  const int32_t sign = u < 0 ? -1 : 1;
  const Row& even = row(level, context, 0);
  const Row& odd = row(level, context, 1);
  Choice out;
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
  const __m128 up = _mm_cmplt_ps(upper, lower);
  _mm_store_ps(out.cost, _mm_min_ps(upper, lower));
  _mm_store_si128(reinterpret_cast<__m128i*>(out.q),
                  _mm_castps_si128(_mm_blendv_ps(_mm_castsi128_ps(_mm256_castsi256_si128(q)),
                                                 _mm_castsi128_ps(_mm256_extracti128_si256(q, 1)), up)));
#else
  constexpr int32_t kOffset[4] = {0, 2, 3, 1};
  constexpr int32_t kBelow[4] = {0, 0, 1, 2};
  for (uint32_t set = 0; set < 4; ++set) {
    const uint32_t bank = set / 2;
    const int32_t low =
        4 * static_cast<int32_t>(std::floor((magnitude - static_cast<float>(kOffset[set])) * 0.25f)) + kOffset[set];
    out.cost[set] = kUnreachable;
    for (const int32_t m : {low < 0 ? low + kBelow[set] : low, low + 4}) {
      const float error = magnitude - (static_cast<float>(m) - static_cast<float>((m > 0) - (m < 0)) * shrink);
      const auto q = static_cast<int16_t>(sign * m);
      const float cost = weight * (error * error) + price(bank == 0 ? even : odd, trellis_value(q, bank));
      if (cost < out.cost[set]) out.cost[set] = cost, out.q[set] = q;
    }
  }
#endif
  return out;
}

// The predecessors of state n by parity p of the symbol, with on_odd and parity as in Trellis and `half` half of the
// number of states:
//   n < half:   2 (n xor p parity), which is even, so bank 0;
//   n >= half:  2 ((n xor on_odd xor p parity) mod half) + 1, bank 1.
void LatentSearch::extend(const Choice& choice, const float* before, float* after, uint8_t* decisions) const {
  const uint32_t states = trellis_->num_states(), half = states / 2;
  const uint32_t parity = trellis_->parity, on_odd = trellis_->on_odd & (half - 1);
#if defined(__AVX2__)
  const auto merge = [&](__m256 p0, __m256 p1, __m256 c0, __m256 c1, uint32_t n) {
    const __m256 x0 = _mm256_add_ps(p0, c0), x1 = _mm256_add_ps(p1, c1);
    _mm256_store_ps(after + n, _mm256_min_ps(x1, x0));
    decisions[n / 8] = static_cast<uint8_t>(_mm256_movemask_ps(_mm256_cmp_ps(x1, x0, _CMP_LT_OQ)));
  };
  const __m256i iota = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  if (states <= 8) {
    // One vector of eight; the four-state trellis leaves its upper half unreachable.
    const __m256 m = _mm256_load_ps(before);
    const __m256i h = _mm256_set1_epi32(static_cast<int32_t>(half));
    const __m256i upper = _mm256_cmpgt_epi32(iota, _mm256_set1_epi32(static_cast<int32_t>(half) - 1));
    const __m256i low_bits = _mm256_and_si256(iota, _mm256_sub_epi32(h, _mm256_set1_epi32(1)));
    const __m256i from0 =
        _mm256_xor_si256(low_bits, _mm256_and_si256(upper, _mm256_set1_epi32(static_cast<int32_t>(on_odd))));
    const __m256i from1 = _mm256_xor_si256(from0, _mm256_set1_epi32(static_cast<int32_t>(parity)));
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i i0 = _mm256_or_si256(_mm256_slli_epi32(from0, 1), odd);
    const __m256i i1 = _mm256_or_si256(_mm256_slli_epi32(from1, 1), odd);
    const __m256 mask = _mm256_castsi256_ps(upper);
    merge(_mm256_permutevar8x32_ps(m, i0), _mm256_permutevar8x32_ps(m, i1),
          _mm256_blendv_ps(_mm256_set1_ps(choice.cost[0]), _mm256_set1_ps(choice.cost[2]), mask),
          _mm256_blendv_ps(_mm256_set1_ps(choice.cost[1]), _mm256_set1_ps(choice.cost[3]), mask), 0);
    if (states == 4) _mm_store_ps(after + 4, _mm_set1_ps(kUnreachable));
    return;
  }
  alignas(32) float even[kMaxStates / 2], odd[kMaxStates / 2];  // metrics of the even and of the odd states
  for (uint32_t j = 0; j < half; j += 8) {
    const __m256 lo = _mm256_load_ps(before + 2 * j), hi = _mm256_load_ps(before + 2 * j + 8);
    const auto sorted = [](__m256 x) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8)); };
    _mm256_store_ps(even + j, sorted(_mm256_shuffle_ps(lo, hi, 0x88)));
    _mm256_store_ps(odd + j, sorted(_mm256_shuffle_ps(lo, hi, 0xdd)));
  }
  // metrics[(j .. j + 7) xor x]
  const auto exchanged = [&](const float* metrics, uint32_t j, uint32_t x) {
    const __m256i low = _mm256_xor_si256(iota, _mm256_set1_epi32(static_cast<int32_t>(x & 7)));
    return _mm256_permutevar8x32_ps(_mm256_load_ps(metrics + (j ^ (x & ~7u))), low);
  };
  const __m256 cost[4] = {_mm256_set1_ps(choice.cost[0]), _mm256_set1_ps(choice.cost[1]),
                          _mm256_set1_ps(choice.cost[2]), _mm256_set1_ps(choice.cost[3])};
  for (uint32_t j = 0; j < half; j += 8) {
    merge(_mm256_load_ps(even + j), exchanged(even, j, parity), cost[0], cost[1], j);
    merge(exchanged(odd, j, on_odd), exchanged(odd, j, on_odd ^ parity), cost[2], cost[3], half + j);
  }
#else
  std::fill_n(decisions, (states + 7) / 8, uint8_t{0});
  for (uint32_t n = 0; n < states; ++n) {
    const uint32_t bank = n / half;
    const uint32_t from = (n & (half - 1)) ^ (bank != 0 ? on_odd : 0);
    const float x0 = before[2 * from + bank] + choice.cost[2 * bank];
    const float x1 = before[2 * (from ^ parity) + bank] + choice.cost[2 * bank + 1];
    after[n] = x1 < x0 ? x1 : x0;
    if (x1 < x0) decisions[n / 8] |= static_cast<uint8_t>(1u << n % 8);
  }
#endif
}

void LatentSearch::search(uint8_t level, std::span<const float> u, const uint8_t* context, const float* weight,
                          int16_t* q) {
  if (trellis_ == nullptr) return round(level, u, context, weight, q);
  const uint32_t states = trellis_->num_states(), half = states / 2;
  const size_t bytes = (states + 7) / 8;
  choices_.resize(u.size());
  decisions_.resize(u.size() * bytes);
  alignas(32) float metric[2][kMaxStates];
  std::fill_n(metric[0], states < 8 ? 8 : states, kUnreachable);
  metric[0][0] = 0;
  for (size_t i = 0; i < u.size(); ++i) {
    choices_[i] = choose(level, context[i], u[i], weight[i]);
    extend(choices_[i], metric[i % 2], metric[(i + 1) % 2], decisions_.data() + i * bytes);
    if (i % kRescaleEvery == kRescaleEvery - 1) {
      float* metrics = metric[(i + 1) % 2];
      const float least = *std::min_element(metrics, metrics + states);
      for (uint32_t s = 0; s < states; ++s) metrics[s] -= least;
    }
  }
  const float* last = metric[u.size() % 2];
  auto state = static_cast<uint32_t>(std::min_element(last, last + states) - last);
  for (size_t i = u.size(); i-- > 0;) {
    const uint32_t parity = decisions_[i * bytes + state / 8] >> state % 8 & 1u;
    const uint32_t bank = state >= half ? 1 : 0;
    q[i] = static_cast<int16_t>(choices_[i].q[2 * bank + parity]);
    const uint32_t from =
        (state & (half - 1)) ^ (bank != 0 ? trellis_->on_odd & (half - 1) : 0u) ^ (parity != 0 ? trellis_->parity : 0u);
    state = 2 * from + bank;
  }
}

}  // namespace nwc
