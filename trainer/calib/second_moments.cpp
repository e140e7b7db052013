#include "trainer/calib/second_moments.h"

#include <algorithm>

namespace nwc {
namespace {

/// Rows of a sum that one task computes; tokens that it takes at a time.
constexpr Eigen::Index kBand = 128;
constexpr Eigen::Index kTokens = 1024;

void add_band(SecondMoment* moment, Eigen::Index begin, Eigen::Index all, RowMatrix<float>* scratch) {
  const Eigen::Index tokens = moment->count >= 0 ? moment->count : all;
  const Eigen::Index n = moment->sum.cols();
  const Eigen::Index rows = std::min(kBand, n - begin);
  for (Eigen::Index first = 0; first < tokens; first += kTokens) {
    const Eigen::Index count = std::min(kTokens, tokens - first);
    *scratch = moment->x->block(first, begin, count, rows);
    if (moment->weight != nullptr) {
      for (Eigen::Index t = 0; t < count; ++t) scratch->row(t) *= moment->weight[first + t];
    }
    moment->sum.block(begin, 0, rows, begin + rows).noalias() +=
        scratch->transpose() * moment->x->block(first, 0, count, begin + rows);
  }
}

}  // namespace

void SecondMoment::finish(double tokens) {
  sum *= static_cast<float>(1.0 / tokens);
  for (Eigen::Index r = 0; r < sum.rows(); ++r) {
    for (Eigen::Index c = r + 1; c < sum.cols(); ++c) sum(r, c) = sum(c, r);
  }
}

void add_moments(std::span<SecondMoment* const> moments, Eigen::Index tokens, Runner& runner) {
  struct Band {
    SecondMoment* moment;
    Eigen::Index begin;
  };
  std::vector<Band> bands;
  for (SecondMoment* moment : moments) {
    const Eigen::Index weights = moment->weight == nullptr ? 0 : moment->count >= 0 ? moment->count : tokens;
    for (Eigen::Index t = 0; t < weights; ++t) moment->effective.add(double{moment->weight[t]});
    for (Eigen::Index begin = 0; begin < moment->sum.rows(); begin += kBand) bands.push_back({moment, begin});
  }
  // The longest bands first, so that no thread ends up alone with one.
  std::stable_sort(bands.begin(), bands.end(), [](const Band& a, const Band& b) { return a.begin > b.begin; });
  std::vector<RowMatrix<float>> scratch(runner.num_workers());
  parallel_for(runner, static_cast<uint32_t>(bands.size()), [&](uint32_t i, uint32_t worker) {
    add_band(bands[i].moment, bands[i].begin, tokens, &scratch[worker]);
  });
}

}  // namespace nwc
