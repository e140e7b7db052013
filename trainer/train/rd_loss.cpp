#include "trainer/train/rd_loss.h"

#include <cassert>
#include <cmath>

namespace nwc {

CodecLayout::CodecLayout(const MlpShape& mlp) : shape(mlp) {
  synthesis = num_parameters(mlp);
  density = 2 * synthesis;
  log_step = density + DensityLayout::kTotal;
  log_scale = log_step + mlp.levels;
  total = log_scale + mlp.levels;
}

void LossSums::add(const LossSums& other) {
  for (size_t l = 0; l < chunks.size(); ++l) {
    chunks[l] += other.chunks[l];
    bits[l] += other.bits[l];
    squared_error[l] += other.squared_error[l];
  }
}

template <typename T>
RdLoss<T>::RdLoss(const MlpShape& shape, LevelObjective objective)
    : layout_(shape), objective_(std::move(objective)), analysis_(shape), synthesis_(shape) {
  assert(objective_.lambda.size() == shape.levels && objective_.weight.size() == shape.levels);
}

template <typename T>
T RdLoss<T>::evaluate(std::span<const T> params, const LossBatch<T>& batch, T scale, std::span<T> grad,
                      LossSums* sums) {
  assert(params.size() == layout_.total && (grad.empty() || grad.size() == layout_.total));
  const uint32_t levels = layout_.shape.levels;
  const auto count = static_cast<size_t>(batch.x.rows());
  std::vector<T> step(levels), level_scale(levels);
  for (uint32_t l = 0; l < levels; ++l) {
    step[l] = std::exp(params[layout_.log_step + l]);
    level_scale[l] = std::exp(params[layout_.log_scale + l]);
  }

  // The forward pass is y -> y + noise * step -> x^.
  const RowMatrix<T>& y = analysis_.forward(params.data(), batch.x, batch.level.data());
  if (batch.proxy != Proxy::kNoise) {
    rounding_.resize(y.rows(), kChunk);
    for (size_t n = 0; n < count; ++n) {
      const auto row = eigen_index(n);
      const auto u = (y.row(row).array() / step[batch.level[n]]).eval();
      rounding_.row(row) = u.round() - u;
    }
  }
  const RowMatrix<T>& rate_noise = batch.proxy == Proxy::kRounding ? rounding_ : batch.noise;
  const RowMatrix<T>& distortion_noise = batch.proxy == Proxy::kNoise ? batch.noise : rounding_;
  noisy_.resize(y.rows(), kChunk);
  decoded_.resize(y.rows(), kChunk);
  for (size_t n = 0; n < count; ++n) {
    const auto row = eigen_index(n);
    noisy_.row(row) = y.row(row) + step[batch.level[n]] * rate_noise.row(row);
    decoded_.row(row) = y.row(row) + step[batch.level[n]] * distortion_noise.row(row);
  }
  const RowMatrix<T>& restored = synthesis_.forward(params.data() + layout_.synthesis, decoded_, batch.level.data());

  T loss = 0;
  error_ = restored - batch.x;
  for (size_t n = 0; n < count; ++n) {
    const uint8_t l = batch.level[n];
    const T squared = error_.row(eigen_index(n)).squaredNorm();
    const T slope = scale * static_cast<T>(objective_.weight[l]) * static_cast<T>(objective_.lambda[l]) / T(kChunk);
    loss += slope * squared;
    error_.row(eigen_index(n)) *= T(2) * slope;
    if (sums != nullptr) {
      sums->chunks[l] += 1;
      sums->squared_error[l] += static_cast<double>(squared);
    }
  }
  dy_.setZero(y.rows(), kChunk);
  if (!grad.empty()) {
    synthesis_.backward(params.data() + layout_.synthesis, error_, grad.data() + layout_.synthesis, &dy_);
    for (size_t n = 0; n < count; ++n) {
      const auto row = eigen_index(n);
      const uint8_t l = batch.level[n];
      grad[layout_.log_step + l] += step[l] * dy_.row(row).dot(distortion_noise.row(row));
    }
  }

  // The rate is summed channel by channel.
  for (auto* v : {&centre_, &half_, &bits_, &weight_, &d_centre_, &d_half_}) v->resize(count);
  for (size_t n = 0; n < count; ++n) {
    const uint8_t l = batch.level[n];
    half_[n] = level_scale[l] * step[l] / T(2);
    weight_[n] = scale * static_cast<T>(objective_.weight[l]) / T(kChunk);
  }
  for (Eigen::Index c = 0; c < kChunk; ++c) {
    const size_t at = layout_.density + static_cast<size_t>(c) * DensityLayout::kPerChannel;
    for (size_t n = 0; n < count; ++n) centre_[n] = level_scale[batch.level[n]] * noisy_(eigen_index(n), c);
    density_.forward(params.data() + at, centre_, half_, bits_);
    for (size_t n = 0; n < count; ++n) {
      loss += weight_[n] * bits_[n];
      if (sums != nullptr) sums->bits[batch.level[n]] += static_cast<double>(bits_[n]);
    }
    if (grad.empty()) continue;
    density_.backward(params.data() + at, weight_, grad.data() + at, d_centre_, d_half_);
    for (size_t n = 0; n < count; ++n) {
      const auto row = eigen_index(n);
      const uint8_t l = batch.level[n];
      // centre = scale * (y + step * noise) and half = scale * step / 2; the parameters are the logarithms of step and
      // scale.
      dy_(row, c) += level_scale[l] * d_centre_[n];
      grad[layout_.log_step + l] += level_scale[l] * step[l] * (d_centre_[n] * rate_noise(row, c) + d_half_[n] / T(2));
      grad[layout_.log_scale + l] += centre_[n] * d_centre_[n] + half_[n] * d_half_[n];
    }
  }
  if (!grad.empty()) analysis_.backward(params.data(), dy_, grad.data(), nullptr);
  return loss;
}

template class RdLoss<float>;
template class RdLoss<double>;

}  // namespace nwc
