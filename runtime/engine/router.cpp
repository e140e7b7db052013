#include "runtime/engine/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace nwc {
namespace {

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

void softmax(float* x, const uint32_t* which, uint32_t n) {
  float largest = x[which[0]], sum = 0;
  for (uint32_t i = 1; i < n; ++i) largest = std::max(largest, x[which[i]]);
  for (uint32_t i = 0; i < n; ++i) sum += x[which[i]] = std::exp(x[which[i]] - largest);
  for (uint32_t i = 0; i < n; ++i) x[which[i]] /= sum;
}

}  // namespace

void choose_experts(const ExpertSpec& spec, const float* bias, float* logits, uint32_t* order, float* row) {
  const uint32_t n = spec.num_experts, k = spec.per_token;
  const bool sigmoids = spec.router == RouterKind::kSigmoid;
  std::iota(order, order + n, 0u);
  if (sigmoids) {
    for (uint32_t e = 0; e < n; ++e) logits[e] = sigmoid(logits[e]);
  } else if (bias != nullptr) {
    for (uint32_t e = 0; e < n; ++e) logits[e] += bias[e];
  }
  if (spec.router == RouterKind::kSoftmaxThenTopK) softmax(logits, order, n);
  // A bias beside sigmoids decides about the choice only.
  const auto rank = [&](uint32_t e) {
    const float value = logits[e] + (sigmoids && bias != nullptr ? bias[e] : 0.0f);
    return std::isnan(value) ? -std::numeric_limits<float>::infinity() : value;
  };
  std::partial_sort(order, order + k, order + n, [&](uint32_t a, uint32_t b) {
    const float of_a = rank(a), of_b = rank(b);
    return of_a > of_b || (of_a == of_b && a < b);
  });
  std::sort(order, order + k);
  if (spec.router == RouterKind::kTopKThenSoftmax) softmax(logits, order, k);
  float factor = spec.scale;
  if (spec.normalized) {
    float sum = 0;
    for (uint32_t i = 0; i < k; ++i) sum += logits[order[i]];
    factor /= sum;
  }
  std::copy_n(order, k, reinterpret_cast<uint32_t*>(row));
  for (uint32_t i = 0; i < k; ++i) row[k + i] = logits[order[i]] * factor;
}

void route(const KernelTable& kernels, Runner& runner, const ExpertSpec& spec, const RouterWeights& router,
           uint32_t tokens, uint32_t hidden, const float* in, float* logits, uint32_t* order, float* scratch,
           float* routed) {
  const uint32_t width = 2 * spec.per_token + 1;
  matmul(kernels, runner, tokens, in, hidden, {router.rows, Dtype::kF32, spec.num_experts, hidden}, logits,
         spec.num_experts, scratch);
  for (uint32_t t = 0; t < tokens; ++t) {
    float* const row = routed + size_t{t} * width;
    choose_experts(spec, router.bias, logits + size_t{t} * spec.num_experts, order, row);
    float* const share = row + size_t{2} * spec.per_token;
    *share = 1;
    if (router.shared_gate == nullptr) continue;
    const float* const x = in + size_t{t} * hidden;
    float sum = 0;
    for (uint32_t i = 0; i < hidden; ++i) sum += router.shared_gate[i] * x[i];
    *share = sigmoid(sum);
  }
}

}  // namespace nwc
