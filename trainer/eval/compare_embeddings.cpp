#include "trainer/eval/compare_embeddings.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "trainer/eval/quantile.h"

namespace nwc {
namespace {

uint32_t nearest(const std::vector<float>& input, const Embeddings& labels) {
  uint32_t best = 0;
  double highest = -2;
  for (uint32_t i = 0; i < labels.size(); ++i) {
    const double value = cosine(input, labels[i]);
    if (value <= highest) continue;
    highest = value;
    best = i;
  }
  return best;
}

}  // namespace

double cosine(std::span<const float> a, std::span<const float> b) {
  assert(a.size() == b.size());
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += double{a[i]} * double{b[i]};
    aa += double{a[i]} * double{a[i]};
    bb += double{b[i]} * double{b[i]};
  }
  if (aa == 0 || bb == 0) return aa == bb ? 1 : 0;
  return std::clamp(ab / std::sqrt(aa * bb), -1.0, 1.0);
}

EmbeddingComparison compare_embeddings(const Embeddings& model, const Embeddings& reference) {
  assert(model.size() == reference.size() && !model.empty());
  std::vector<double> cosines;
  for (size_t i = 0; i < model.size(); ++i) cosines.push_back(cosine(model[i], reference[i]));
  std::sort(cosines.begin(), cosines.end());
  EmbeddingComparison out;
  out.count = cosines.size();
  const double n = static_cast<double>(out.count);
  for (const double c : cosines) out.cosine_mean += c / n;
  double squares = 0;
  for (const double c : cosines) squares += (c - out.cosine_mean) * (c - out.cosine_mean);
  out.cosine_se = out.count < 2 ? 0 : std::sqrt(squares / (n - 1) / n);
  out.cosine_p1 = quantile(cosines, 0.01);
  out.cosine_min = cosines.front();
  return out;
}

ZeroShotComparison compare_zero_shot(const Embeddings& model, const Embeddings& model_labels,
                                     const Embeddings& reference, const Embeddings& reference_labels) {
  assert(model.size() == reference.size() && !model.empty() && !model_labels.empty());
  ZeroShotComparison out;
  double same = 0;
  for (size_t i = 0; i < model.size(); ++i) {
    out.chosen.push_back(nearest(model[i], model_labels));
    out.reference_chosen.push_back(nearest(reference[i], reference_labels));
    same += out.chosen.back() == out.reference_chosen.back() ? 1 : 0;
  }
  const double n = static_cast<double>(model.size());
  out.same_top = same / n;
  out.same_top_se = model.size() < 2 ? 0 : std::sqrt(out.same_top * (1 - out.same_top) / (n - 1));
  return out;
}

}  // namespace nwc
