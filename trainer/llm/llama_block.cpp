#include "trainer/llm/llama_block.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "runtime/graph/rope.h"
#include "trainer/llm/rms_norm.h"

namespace nwc {
namespace {

/// Queries that attend together: enough for an efficient product, few enough that little is spent on masked keys.
constexpr Eigen::Index kQueryRows = 64;

template <typename T>
bool wanted(const BlockWeights<T>* grad, LayerMatrix m) {
  return grad != nullptr && grad->matrix[m].size() != 0;
}

/// dW += dy^T x
template <typename T>
void add_weight_gradient(BlockWeights<T>* grad, LayerMatrix m, const RowMatrix<T>& dy, const RowMatrix<T>& x) {
  if (wanted(grad, m)) grad->matrix[m].noalias() += dy.transpose() * x;
}

}  // namespace

LlamaShape::LlamaShape(const ModelRecord& model)
    : hidden(model.hidden_size),
      inner(model.block().intermediate_size),
      heads(model.block().num_heads),
      kv_heads(model.block().num_kv_heads),
      head_dim(model.block().head_dim),
      epsilon(double{model.block().norm_eps}),
      frequencies(rope_frequencies(model.block(), model.max_positions)) {}

Eigen::Index LlamaShape::rows(LayerMatrix m) const {
  switch (m) {
    case kQ: return q_width();
    case kK:
    case kV: return kv_width();
    case kGate:
    case kUp: return inner;
    default: return hidden;
  }
}

Eigen::Index LlamaShape::cols(LayerMatrix m) const {
  switch (m) {
    case kO: return q_width();
    case kDown: return inner;
    default: return hidden;
  }
}

template <typename T>
LlamaBlock<T>::LlamaBlock(const LlamaShape& shape, Eigen::Index max_length)
    : shape_(shape),
      max_length_(max_length),
      cosine_(max_length, shape.head_dim / 2),
      sine_(max_length, shape.head_dim / 2),
      p_(kQueryRows, max_length),
      dp_(kQueryRows, max_length) {
  for (Eigen::Index t = 0; t < max_length; ++t) {
    for (Eigen::Index i = 0; i < cosine_.cols(); ++i) {
      const double angle = static_cast<double>(t) * shape_.frequencies[static_cast<size_t>(i)];
      cosine_(t, i) = static_cast<T>(std::cos(angle));
      sine_(t, i) = static_cast<T>(std::sin(angle));
    }
  }
}

/// direction +1 rotates, -1 rotates back, which is also the rotation's transpose.
template <typename T>
void LlamaBlock<T>::rotate(RowMatrix<T>* x, T direction) const {
  const Eigen::Index half = shape_.head_dim / 2;
  RowVector<T> a(half), b(half);
  Eigen::Index row = 0;
  for (const uint32_t length : lengths_) {
    for (Eigen::Index t = 0; t < static_cast<Eigen::Index>(length); ++t, ++row) {
      for (Eigen::Index col = 0; col < x->cols(); col += 2 * half) {
        a = x->row(row).segment(col, half);
        b = x->row(row).segment(col + half, half);
        x->row(row).segment(col, half) = a.cwiseProduct(cosine_.row(t)) - direction * b.cwiseProduct(sine_.row(t));
        x->row(row).segment(col + half, half) =
            b.cwiseProduct(cosine_.row(t)) + direction * a.cwiseProduct(sine_.row(t));
      }
    }
  }
}

template <typename T>
template <typename F>
void LlamaBlock<T>::for_each_piece(F&& f) const {
  const Eigen::Index group = shape_.heads / shape_.kv_heads;
  Eigen::Index begin = 0;
  for (const uint32_t n : lengths_) {
    const Eigen::Index length = n;
    for (Eigen::Index h = 0; h < shape_.heads; ++h) {
      for (Eigen::Index first = 0; first < length; first += kQueryRows) {
        const Eigen::Index rows = std::min(kQueryRows, length - first);
        f(Piece{begin, first, rows, first + rows, h * shape_.head_dim, h / group * shape_.head_dim});
      }
    }
    begin += length;
  }
}

/// Attention weights of the piece's queries in the corner [rows][visible] of p_.
template <typename T>
void LlamaBlock<T>::probabilities(const Piece& piece) {
  const Eigen::Index dim = shape_.head_dim;
  const T scale = T(1) / std::sqrt(static_cast<T>(dim));
  auto p = p_.topLeftCorner(piece.rows, piece.visible);
  p.noalias() = q_.block(piece.begin + piece.first, piece.query_col, piece.rows, dim) *
                k_.block(piece.begin, piece.key_col, piece.visible, dim).transpose();
  for (Eigen::Index r = 0; r < piece.rows; ++r) {
    const Eigen::Index seen = piece.first + r + 1;
    auto row = p.row(r).head(seen).array();
    row = ((row - row.maxCoeff()) * scale).exp();
    row /= row.sum();
    p.row(r).tail(piece.visible - seen).setZero();
  }
}

template <typename T>
const RowMatrix<T>& LlamaBlock<T>::forward(const BlockWeights<T>& w, const RowMatrix<T>& x,
                                           std::span<const uint32_t> lengths) {
  assert(std::accumulate(lengths.begin(), lengths.end(), Eigen::Index{0}) == x.rows());
  assert(lengths.empty() ||
         static_cast<Eigen::Index>(*std::max_element(lengths.begin(), lengths.end())) <= max_length_);
  x_ = &x;
  lengths_.assign(lengths.begin(), lengths.end());
  const T epsilon = static_cast<T>(shape_.epsilon);

  rms_norm(x, w.attention_norm, epsilon, &attention_in_, &attention_inverse_);
  q_.noalias() = attention_in_ * w.matrix[kQ].transpose();
  k_.noalias() = attention_in_ * w.matrix[kK].transpose();
  v_.noalias() = attention_in_ * w.matrix[kV].transpose();
  rotate(&q_, T(1));
  rotate(&k_, T(1));
  o_in_.resize(x.rows(), shape_.q_width());
  for_each_piece([&](const Piece& piece) {
    probabilities(piece);
    o_in_.block(piece.begin + piece.first, piece.query_col, piece.rows, shape_.head_dim).noalias() =
        p_.topLeftCorner(piece.rows, piece.visible) *
        v_.block(piece.begin, piece.key_col, piece.visible, shape_.head_dim);
  });
  middle_ = x;
  middle_.noalias() += o_in_ * w.matrix[kO].transpose();

  rms_norm(middle_, w.mlp_norm, epsilon, &mlp_in_, &mlp_inverse_);
  gate_.noalias() = mlp_in_ * w.matrix[kGate].transpose();
  up_.noalias() = mlp_in_ * w.matrix[kUp].transpose();
  down_in_ = gate_.array() / (T(1) + (-gate_.array()).exp()) * up_.array();
  y_ = middle_;
  y_.noalias() += down_in_ * w.matrix[kDown].transpose();
  return y_;
}

/// dq_, dk_, dv_ at the outputs of their layers. The attention weights are computed again: kept, they would take
/// heads * length values per token.
template <typename T>
void LlamaBlock<T>::attention_backward(const RowMatrix<T>& d_out) {
  const Eigen::Index dim = shape_.head_dim;
  const T scale = T(1) / std::sqrt(static_cast<T>(dim));
  dq_.resize(q_.rows(), q_.cols());
  dk_.setZero(k_.rows(), k_.cols());
  dv_.setZero(v_.rows(), v_.cols());
  for_each_piece([&](const Piece& piece) {
    probabilities(piece);
    const auto p = p_.topLeftCorner(piece.rows, piece.visible);
    auto ds = dp_.topLeftCorner(piece.rows, piece.visible);
    const auto dout = d_out.block(piece.begin + piece.first, piece.query_col, piece.rows, dim);
    const auto keys = k_.block(piece.begin, piece.key_col, piece.visible, dim);
    const auto values = v_.block(piece.begin, piece.key_col, piece.visible, dim);
    dv_.block(piece.begin, piece.key_col, piece.visible, dim).noalias() += p.transpose() * dout;
    ds.noalias() = dout * values.transpose();
    for (Eigen::Index r = 0; r < piece.rows; ++r) {
      const T mean = ds.row(r).cwiseProduct(p.row(r)).sum();
      ds.row(r) = p.row(r).array() * (ds.row(r).array() - mean) * scale;
    }
    dq_.block(piece.begin + piece.first, piece.query_col, piece.rows, dim).noalias() = ds * keys;
    dk_.block(piece.begin, piece.key_col, piece.visible, dim).noalias() +=
        ds.transpose() * q_.block(piece.begin + piece.first, piece.query_col, piece.rows, dim);
  });
  rotate(&dq_, T(-1));
  rotate(&dk_, T(-1));
}

template <typename T>
void LlamaBlock<T>::backward(const BlockWeights<T>& w, const RowMatrix<T>& dy, RowMatrix<T>* dx,
                             BlockWeights<T>* grad) {
  assert(dy.rows() == y_.rows() && dy.cols() == y_.cols() && dx != &dy);
  dy_ = dy;
  add_weight_gradient(grad, kDown, dy_, down_in_);
  scratch_.noalias() = dy * w.matrix[kDown];  // d(down_in)
  const auto gate = gate_.array();
  const auto sigmoid = T(1) / (T(1) + (-gate).exp());
  dup_ = scratch_.array() * gate * sigmoid;
  dgate_ = scratch_.array() * up_.array() * sigmoid * (T(1) + gate * (T(1) - sigmoid));
  add_weight_gradient(grad, kGate, dgate_, mlp_in_);
  add_weight_gradient(grad, kUp, dup_, mlp_in_);
  scratch_.noalias() = dgate_ * w.matrix[kGate];
  scratch_.noalias() += dup_ * w.matrix[kUp];  // d(mlp_in)
  dmiddle_ = dy;
  rms_norm_backward(middle_, mlp_inverse_, w.mlp_norm, scratch_, &dmiddle_,
                    grad != nullptr ? &grad->mlp_norm : nullptr);

  const bool norm_wanted = grad != nullptr && grad->attention_norm.size() != 0;
  add_weight_gradient(grad, kO, dmiddle_, o_in_);
  if (dx == nullptr && !norm_wanted && !wanted(grad, kQ) && !wanted(grad, kK) && !wanted(grad, kV)) return;
  scratch_.noalias() = dmiddle_ * w.matrix[kO];  // d(o_in)
  attention_backward(scratch_);
  add_weight_gradient(grad, kQ, dq_, attention_in_);
  add_weight_gradient(grad, kK, dk_, attention_in_);
  add_weight_gradient(grad, kV, dv_, attention_in_);
  if (dx == nullptr && !norm_wanted) return;
  scratch_.noalias() = dq_ * w.matrix[kQ];
  scratch_.noalias() += dk_ * w.matrix[kK];
  scratch_.noalias() += dv_ * w.matrix[kV];  // d(attention_in)
  RowMatrix<T> unused;
  RowMatrix<T>* out = dx != nullptr ? dx : &unused;
  *out = dmiddle_;
  rms_norm_backward(*x_, attention_inverse_, w.attention_norm, scratch_, out,
                    grad != nullptr ? &grad->attention_norm : nullptr);
}

template <typename T>
const RowMatrix<T>& LlamaBlock<T>::input(LayerMatrix m) const {
  switch (m) {
    case kQ:
    case kK:
    case kV: return attention_in_;
    case kO: return o_in_;
    case kGate:
    case kUp: return mlp_in_;
    default: return down_in_;
  }
}

template <typename T>
const RowMatrix<T>& LlamaBlock<T>::output_gradient(LayerMatrix m) const {
  switch (m) {
    case kQ: return dq_;
    case kK: return dk_;
    case kV: return dv_;
    case kO: return dmiddle_;
    case kGate: return dgate_;
    case kUp: return dup_;
    default: return dy_;
  }
}

template class LlamaBlock<float>;
template class LlamaBlock<double>;

}  // namespace nwc
