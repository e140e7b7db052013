#include "trainer/nn/mlp.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace nwc {
namespace {

constexpr double kNormEpsilon = 1e-5;  // doc/format.md, section 5.5

struct Offsets {
  size_t input_weight = 0, input_bias = 0, blocks = 0, block_size = 0, output_weight = 0, output_bias = 0;
  size_t skip_weight = 0, level_embedding = 0, total = 0;
  // These are offsets within a block, which begins with its weight.
  size_t bias = 0, norm_gain = 0, norm_bias = 0;

  explicit Offsets(const MlpShape& shape) {
    const size_t w = shape.width;
    input_bias = w * kChunk;
    blocks = input_bias + w;
    bias = w * w;
    norm_gain = bias + w;
    norm_bias = norm_gain + w;
    block_size = w * w + w + (shape.layer_norm ? 2 * w : 0);
    output_weight = blocks + shape.blocks * block_size;
    output_bias = output_weight + kChunk * w;
    skip_weight = output_bias + (w != 0 ? kChunk : 0);
    level_embedding = skip_weight + kChunk * kChunk;
    total = level_embedding + shape.blocks * size_t{shape.levels} * w;
  }
};

template <typename T>
void activate(Activation activation, const RowMatrix<T>& u, const RowMatrix<T>& h, RowMatrix<T>* sum) {
  switch (activation) {
    case Activation::kNone: *sum = h + u; break;
    case Activation::kRelu: *sum = h + u.cwiseMax(T(0)); break;
    case Activation::kSilu: *sum = h.array() + u.array() / (T(1) + (-u.array()).exp()); break;
  }
}

/// du = dg * act'(u)
template <typename T>
void activate_backward(Activation activation, const RowMatrix<T>& u, const RowMatrix<T>& dg, RowMatrix<T>* du) {
  switch (activation) {
    case Activation::kNone: *du = dg; break;
    case Activation::kRelu: *du = (u.array() > T(0)).select(dg, T(0)); break;
    case Activation::kSilu: {
      const auto sigmoid = (T(1) / (T(1) + (-u.array()).exp())).eval();
      *du = dg.array() * sigmoid * (T(1) + u.array() * (T(1) - sigmoid));
      break;
    }
  }
}

/// sum += the rows of m, one after another. Eigen's colwise().sum() orders its additions by the alignment of what it
/// writes to, and with it results would depend on where a buffer happens to lie.
template <typename T>
void add_rows(const RowMatrix<T>& m, T* sum) {
  RowMap<T> total(sum, m.cols());
  for (Eigen::Index n = 0; n < m.rows(); ++n) total += m.row(n);
}

}  // namespace

size_t num_parameters(const MlpShape& shape) { return Offsets(shape).total; }

std::vector<float> flatten(const Network& network) {
  std::vector<float> flat;
  const auto add = [&flat](const std::vector<float>& part) { flat.insert(flat.end(), part.begin(), part.end()); };
  add(network.input_weight), add(network.input_bias);
  for (const NetworkBlock& block : network.blocks)
    add(block.weight), add(block.bias), add(block.norm_gain), add(block.norm_bias);
  add(network.output_weight), add(network.output_bias), add(network.skip_weight), add(network.level_embedding);
  return flat;
}

Network unflatten(const MlpShape& shape, std::span<const float> flat) {
  assert(flat.size() == num_parameters(shape));
  size_t at = 0;
  const auto take = [&](size_t count) {
    const auto part = flat.subspan(at, count);
    at += count;
    return std::vector<float>(part.begin(), part.end());
  };
  const size_t w = shape.width;
  Network network;
  network.width = shape.width;
  network.activation = shape.activation;
  network.layer_norm = shape.layer_norm;
  network.input_weight = take(w * kChunk);
  network.input_bias = take(w);
  network.blocks.resize(shape.blocks);
  for (NetworkBlock& block : network.blocks) {
    block.weight = take(w * w);
    block.bias = take(w);
    if (shape.layer_norm) {
      block.norm_gain = take(w);
      block.norm_bias = take(w);
    }
  }
  network.output_weight = take(kChunk * w);
  network.output_bias = take(w != 0 ? kChunk : 0);
  network.skip_weight = take(kChunk * kChunk);
  network.level_embedding = take(shape.blocks * size_t{shape.levels} * w);
  return network;
}

void initialize_mlp(const MlpShape& shape, Random* random, std::span<float> flat) {
  assert(flat.size() == num_parameters(shape));
  const Offsets at(shape);
  const size_t w = shape.width;
  std::fill(flat.begin(), flat.end(), 0.0f);
  const auto gaussian = [&](size_t offset, size_t count, double deviation) {
    for (size_t i = 0; i < count; ++i) flat[offset + i] = static_cast<float>(deviation * random->normal());
  };
  gaussian(at.input_weight, w * kChunk, std::sqrt(1.0 / kChunk));
  for (uint32_t b = 0; b < shape.blocks; ++b) {
    const size_t block = at.blocks + b * at.block_size;
    gaussian(block, w * w, std::sqrt(1.0 / static_cast<double>(w)));
    if (shape.layer_norm) std::fill_n(flat.begin() + static_cast<std::ptrdiff_t>(block + at.norm_gain), w, 1.0f);
  }
  gaussian(at.output_weight, kChunk * w, 1e-3);
  for (size_t i = 0; i < kChunk; ++i) flat[at.skip_weight + i * kChunk + i] = 1.0f;
  std::fill(flat.begin() + static_cast<std::ptrdiff_t>(at.level_embedding), flat.end(), 1.0f);
}

template <typename T>
const RowMatrix<T>& Mlp<T>::forward(const T* params, const RowMatrix<T>& x, const uint8_t* level) {
  const Offsets at(shape_);
  const auto w = eigen_index(shape_.width);
  x_ = &x;
  level_ = level;
  y_.noalias() = x * ConstMatrixMap<T>(params + at.skip_weight, kChunk, kChunk).transpose();
  if (w == 0) return y_;

  blocks_.resize(shape_.blocks);
  RowMatrix<T>* next = &blocks_[0].in;
  next->noalias() = x * ConstMatrixMap<T>(params + at.input_weight, w, kChunk).transpose();
  next->rowwise() += ConstRowMap<T>(params + at.input_bias, w);
  for (uint32_t b = 0; b < shape_.blocks; ++b) {
    BlockState& s = blocks_[b];
    const T* block = params + at.blocks + b * at.block_size;
    s.pre.noalias() = s.in * ConstMatrixMap<T>(block, w, w).transpose();
    s.pre.rowwise() += ConstRowMap<T>(block + at.bias, w);
    if (shape_.layer_norm) {
      s.normalized = s.pre.colwise() - s.pre.rowwise().mean();
      s.inv_dev = (s.normalized.rowwise().squaredNorm().array() / static_cast<T>(w) + T(kNormEpsilon)).rsqrt();
      s.normalized.array().colwise() *= s.inv_dev.transpose().array();
      s.pre = s.normalized.array().rowwise() * ConstRowMap<T>(block + at.norm_gain, w).array();
      s.pre.rowwise() += ConstRowMap<T>(block + at.norm_bias, w);
    }
    activate(shape_.activation, s.pre, s.in, &s.sum);
    next = b + 1 < shape_.blocks ? &blocks_[b + 1].in : &last_;
    next->resize(s.sum.rows(), w);
    const T* embedding = params + at.level_embedding + b * shape_.levels * shape_.width;
    for (Eigen::Index n = 0; n < s.sum.rows(); ++n) {
      next->row(n) = s.sum.row(n).cwiseProduct(ConstRowMap<T>(embedding + level[n] * shape_.width, w));
    }
  }
  y_.noalias() += last_ * ConstMatrixMap<T>(params + at.output_weight, kChunk, w).transpose();
  y_.rowwise() += ConstRowMap<T>(params + at.output_bias, kChunk);
  return y_;
}

template <typename T>
void Mlp<T>::backward(const T* params, const RowMatrix<T>& dy, T* grad, RowMatrix<T>* dx) {
  const Offsets at(shape_);
  const auto w = eigen_index(shape_.width);
  MatrixMap<T>(grad + at.skip_weight, kChunk, kChunk).noalias() += dy.transpose() * *x_;
  if (dx != nullptr) dx->noalias() = dy * ConstMatrixMap<T>(params + at.skip_weight, kChunk, kChunk);
  if (w == 0) return;

  MatrixMap<T>(grad + at.output_weight, kChunk, w).noalias() += dy.transpose() * last_;
  add_rows<T>(dy, grad + at.output_bias);
  RowMatrix<T> dh = dy * ConstMatrixMap<T>(params + at.output_weight, kChunk, w);
  RowMatrix<T> du;
  for (uint32_t b = shape_.blocks; b-- > 0;) {
    const BlockState& s = blocks_[b];
    const T* block = params + at.blocks + b * at.block_size;
    T* block_grad = grad + at.blocks + b * at.block_size;
    const T* embedding = params + at.level_embedding + b * shape_.levels * shape_.width;
    T* embedding_grad = grad + at.level_embedding + b * shape_.levels * shape_.width;
    for (Eigen::Index n = 0; n < dh.rows(); ++n) {
      const size_t e = level_[n] * size_t{shape_.width};
      RowMap<T>(embedding_grad + e, w) += dh.row(n).cwiseProduct(s.sum.row(n));
      dh.row(n) = dh.row(n).cwiseProduct(ConstRowMap<T>(embedding + e, w));
    }
    activate_backward(shape_.activation, s.pre, dh, &du);
    if (shape_.layer_norm) {
      add_rows<T>(du.cwiseProduct(s.normalized), block_grad + at.norm_gain);
      add_rows<T>(du, block_grad + at.norm_bias);
      du.array().rowwise() *= ConstRowMap<T>(block + at.norm_gain, w).array();
      for (Eigen::Index n = 0; n < du.rows(); ++n) {
        const T mean = du.row(n).mean();
        const T slope = du.row(n).dot(s.normalized.row(n)) / static_cast<T>(w);
        du.row(n) = s.inv_dev[n] * ((du.row(n).array() - mean).matrix() - slope * s.normalized.row(n));
      }
    }
    MatrixMap<T>(block_grad, w, w).noalias() += du.transpose() * s.in;
    add_rows<T>(du, block_grad + at.bias);
    dh.noalias() += du * ConstMatrixMap<T>(block, w, w);
  }
  MatrixMap<T>(grad + at.input_weight, w, kChunk).noalias() += dh.transpose() * *x_;
  add_rows<T>(dh, grad + at.input_bias);
  if (dx != nullptr) dx->noalias() += dh * ConstMatrixMap<T>(params + at.input_weight, w, kChunk);
}

template class Mlp<float>;
template class Mlp<double>;

void apply_network(const Network& network, uint32_t num_levels, std::span<const float> x, const uint8_t* level,
                   std::span<float> y) {
  assert(x.size() == y.size() && x.size() % kChunk == 0);
  const auto count = eigen_index(x.size() / kChunk);
  const auto w = eigen_index(network.width);
  const ConstMatrixMap<float> in(x.data(), count, kChunk);
  MatrixMap<float> out(y.data(), count, kChunk);
  out.noalias() = in * ConstMatrixMap<float>(network.skip_weight.data(), kChunk, kChunk).transpose();
  if (w == 0) return;

  // Rows are taken in blocks, so that the hidden states stay in the cache.
  constexpr Eigen::Index kRows = 256;
  RowMatrix<float> h, u, sum;
  for (Eigen::Index begin = 0; begin < count; begin += kRows) {
    const Eigen::Index rows = std::min(kRows, count - begin);
    h.noalias() =
        in.middleRows(begin, rows) * ConstMatrixMap<float>(network.input_weight.data(), w, kChunk).transpose();
    h.rowwise() += ConstRowMap<float>(network.input_bias.data(), w);
    for (size_t b = 0; b < network.blocks.size(); ++b) {
      const NetworkBlock& block = network.blocks[b];
      u.noalias() = h * ConstMatrixMap<float>(block.weight.data(), w, w).transpose();
      u.rowwise() += ConstRowMap<float>(block.bias.data(), w);
      if (network.layer_norm) {
        u.colwise() -= u.rowwise().mean().eval();
        const Eigen::ArrayXf inv_dev =
            (u.rowwise().squaredNorm().array() / static_cast<float>(w) + static_cast<float>(kNormEpsilon)).rsqrt();
        u.array().colwise() *= inv_dev;
        u.array().rowwise() *= ConstRowMap<float>(block.norm_gain.data(), w).array();
        u.rowwise() += ConstRowMap<float>(block.norm_bias.data(), w);
      }
      activate(network.activation, u, h, &sum);
      const float* embedding = network.level_embedding.data() + b * num_levels * network.width;
      for (Eigen::Index n = 0; n < rows; ++n) {
        h.row(n) = sum.row(n).cwiseProduct(ConstRowMap<float>(embedding + level[begin + n] * network.width, w));
      }
    }
    out.middleRows(begin, rows).noalias() +=
        h * ConstMatrixMap<float>(network.output_weight.data(), kChunk, w).transpose();
    out.middleRows(begin, rows).rowwise() += ConstRowMap<float>(network.output_bias.data(), kChunk);
  }
}

}  // namespace nwc
