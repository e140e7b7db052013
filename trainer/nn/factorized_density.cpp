#include "trainer/nn/factorized_density.h"

#include <cassert>
#include <cmath>

namespace nwc {
namespace {

constexpr int kLayers = 4;
constexpr int kUnits[kLayers + 1] = {1, 3, 3, 3, 1};
constexpr int kMatrixAt[kLayers] = {0, 3, 12, 21};
constexpr int kBiasAt[kLayers] = {0, 3, 6, 9};

/// Below this probability the rate is clamped: a latent far outside the density costs 30 bits and still pulls.
constexpr double kMinProbability = 1e-9;

template <typename T>
T softplus(T x) {
  return x > T(20) ? x : std::log1p(std::exp(x));
}
template <typename T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

}  // namespace

void initialize_density(Random* random, std::span<float> flat) {
  assert(flat.size() == DensityLayout::kTotal);
  // The four layers' slopes multiply to 1 / kSpread, which makes a logistic density of deviation
  // pi / sqrt(3) * kSpread = 1.
  constexpr double kSpread = 0.5513;
  const double per_layer = std::pow(kSpread, -1.0 / kLayers);
  for (size_t c = 0; c < kChunk; ++c) {
    float* params = flat.data() + c * DensityLayout::kPerChannel;
    for (int i = 0; i < kLayers; ++i) {
      const double value = std::log(std::expm1(per_layer / kUnits[i]));
      for (int m = 0; m < kUnits[i] * kUnits[i + 1]; ++m) params[kMatrixAt[i] + m] = static_cast<float>(value);
    }
    // The hidden units have to differ, or they would stay equal for ever; the density starts symmetric all the same.
    float* bias = params + DensityLayout::kMatrix;
    for (int i = 0; i + 1 < kLayers; ++i) {
      const double shift = 0.2 + 0.3 * random->uniform();
      bias[kBiasAt[i]] = static_cast<float>(-shift);
      bias[kBiasAt[i] + 2] = static_cast<float>(shift);
    }
  }
}

template <typename T>
void FactorizedDensity<T>::run(const T* params, Array* values) {
  const T* bias = params + DensityLayout::kMatrix;
  const T* factor = bias + DensityLayout::kBias;
  for (int i = 0; i < kLayers; ++i) {
    const T* matrix = params + kMatrixAt[i];
    layer_[i].in.swap(*values);
    const Array& in = layer_[i].in;
    values->resize(kUnits[i + 1], in.cols());
    for (int o = 0; o < kUnits[i + 1]; ++o) {
      auto row = values->row(o);
      row = in.row(0) * softplus(matrix[o * kUnits[i]]) + bias[kBiasAt[i] + o];
      for (int j = 1; j < kUnits[i]; ++j) row += in.row(j) * softplus(matrix[o * kUnits[i] + j]);
    }
    if (i + 1 == kLayers) break;
    layer_[i].tanh = values->tanh();
    for (int o = 0; o < kUnits[i + 1]; ++o) {
      values->row(o) += layer_[i].tanh.row(o) * std::tanh(factor[kBiasAt[i] + o]);
    }
  }
}

template <typename T>
void FactorizedDensity<T>::forward(const T* params, std::span<const T> t, std::span<const T> h, std::span<T> bits) {
  const auto n = eigen_index(t.size());
  assert(h.size() == t.size() && bits.size() == t.size());
  const Eigen::Map<const Eigen::Array<T, 1, Eigen::Dynamic>> centre(t.data(), n), half(h.data(), n);
  upper_lower_.resize(1, 2 * n);
  upper_lower_.leftCols(n) = centre + half;
  upper_lower_.rightCols(n) = centre - half;
  run(params, &upper_lower_);
  for (Eigen::Index i = 0; i < n; ++i) {
    const T upper = upper_lower_(0, i), lower = upper_lower_(0, n + i);
    // Both are taken on the side where they are small, so that the difference keeps its digits.
    const T p = upper + lower > T(0) ? sigmoid(-lower) - sigmoid(-upper) : sigmoid(upper) - sigmoid(lower);
    bits[static_cast<size_t>(i)] = -std::log2(std::max(p, T(kMinProbability)));
  }
}

template <typename T>
void FactorizedDensity<T>::backward(const T* params, std::span<const T> weight, T* grad, std::span<T> dt,
                                    std::span<T> dh) {
  const auto n = eigen_index(weight.size());
  assert(upper_lower_.cols() == 2 * n);
  const T* bias = params + DensityLayout::kMatrix;
  const T* factor = bias + DensityLayout::kBias;
  T* bias_grad = grad + DensityLayout::kMatrix;
  T* factor_grad = bias_grad + DensityLayout::kBias;

  Array d(1, 2 * n);  // This is dL / d(values after the layer), from the last layer to the first.
  for (Eigen::Index i = 0; i < n; ++i) {
    const T upper = sigmoid(upper_lower_(0, i)), lower = sigmoid(upper_lower_(0, n + i));
    const T upper_c = sigmoid(-upper_lower_(0, i)), lower_c = sigmoid(-upper_lower_(0, n + i));
    const T p = upper + lower > T(1) ? lower_c - upper_c : upper - lower;
    const T dp = -weight[static_cast<size_t>(i)] / (static_cast<T>(std::log(2.0)) * std::max(p, T(kMinProbability)));
    d(0, i) = dp * upper * upper_c;
    d(0, n + i) = -dp * lower * lower_c;
  }
  for (int i = kLayers; i-- > 0;) {
    if (i + 1 < kLayers) {
      for (int o = 0; o < kUnits[i + 1]; ++o) {
        const T f = std::tanh(factor[kBiasAt[i] + o]);
        factor_grad[kBiasAt[i] + o] += (T(1) - f * f) * (d.row(o) * layer_[i].tanh.row(o)).sum();
        d.row(o) *= T(1) + f * (T(1) - layer_[i].tanh.row(o).square());
      }
    }
    const T* matrix = params + kMatrixAt[i];
    const Array& in = layer_[i].in;
    Array d_in = Array::Zero(in.rows(), in.cols());
    for (int o = 0; o < kUnits[i + 1]; ++o) {
      bias_grad[kBiasAt[i] + o] += d.row(o).sum();
      for (int j = 0; j < kUnits[i]; ++j) {
        const T m = matrix[o * kUnits[i] + j];
        grad[kMatrixAt[i] + o * kUnits[i] + j] += sigmoid(m) * (d.row(o) * in.row(j)).sum();
        d_in.row(j) += d.row(o) * softplus(m);
      }
    }
    d.swap(d_in);
  }
  Eigen::Map<Eigen::Array<T, 1, Eigen::Dynamic>>(dt.data(), n) = d.leftCols(n) + d.rightCols(n);
  Eigen::Map<Eigen::Array<T, 1, Eigen::Dynamic>>(dh.data(), n) = d.leftCols(n) - d.rightCols(n);
}

template <typename T>
void FactorizedDensity<T>::logits(const T* params, std::span<const T> t, std::span<T> f) {
  for (size_t i = 0; i < t.size(); ++i) {
    T slope;
    logit_slope(params, t[i], &f[i], &slope);
  }
}

template <typename T>
void FactorizedDensity<T>::logit_slope(const T* params, T t, T* f, T* slope) {
  const T* bias = params + DensityLayout::kMatrix;
  const T* factor = bias + DensityLayout::kBias;
  T value[3] = {t, 0, 0}, tangent[3] = {1, 0, 0};
  for (int i = 0; i < kLayers; ++i) {
    const T* matrix = params + kMatrixAt[i];
    T next[3], next_tangent[3];
    for (int o = 0; o < kUnits[i + 1]; ++o) {
      next[o] = bias[kBiasAt[i] + o];
      next_tangent[o] = 0;
      for (int j = 0; j < kUnits[i]; ++j) {
        const T m = softplus(matrix[o * kUnits[i] + j]);
        next[o] += m * value[j];
        next_tangent[o] += m * tangent[j];
      }
      if (i + 1 == kLayers) continue;
      const T a = std::tanh(factor[kBiasAt[i] + o]), th = std::tanh(next[o]);
      next[o] += a * th;
      next_tangent[o] *= T(1) + a * (T(1) - th * th);
    }
    for (int o = 0; o < kUnits[i + 1]; ++o) value[o] = next[o], tangent[o] = next_tangent[o];
  }
  *f = value[0];
  *slope = tangent[0];
}

template class FactorizedDensity<float>;
template class FactorizedDensity<double>;

}  // namespace nwc
