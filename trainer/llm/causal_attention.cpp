#include "trainer/llm/causal_attention.h"

#include <algorithm>
#include <cmath>

namespace nwc {
namespace {

/// Queries that attend together: enough for an efficient product, few enough that little is spent on masked keys.
constexpr Eigen::Index kQueryRows = 64;

}  // namespace

template <typename T>
template <typename F>
void CausalAttention<T>::for_each_piece(const BlockSpec& spec, std::span<const uint32_t> lengths, F&& f) {
  const Eigen::Index heads = spec.num_heads, group = heads / spec.num_kv_heads, dim = spec.head_dim;
  const Eigen::Index keys_at = spec.q_width(), values_at = keys_at + spec.kv_width();
  Eigen::Index longest = 0;
  for (const uint32_t n : lengths) longest = std::max<Eigen::Index>(longest, n);
  if (p_.cols() < longest) {
    p_.resize(kQueryRows, longest);
    dp_.resize(kQueryRows, longest);
  }
  if (spec.attention_softcap != 0 && bend_.cols() < p_.cols()) bend_.resize(kQueryRows, p_.cols());
  Eigen::Index begin = 0;
  for (const uint32_t n : lengths) {
    const Eigen::Index length = n;
    for (Eigen::Index h = 0; h < heads; ++h) {
      for (Eigen::Index first = 0; first < length; first += kQueryRows) {
        const Eigen::Index rows = std::min(kQueryRows, length - first);
        const Eigen::Index kv = h / group * dim;
        const Eigen::Index end = spec.causal ? first + rows : length;
        f(Piece{begin, first, rows, oldest_seen(spec, first), h * dim, keys_at + kv, values_at + kv, h, end});
      }
    }
    begin += length;
  }
}

/// Attention weights of the piece's queries in the corner [rows][keys] of p_. keep_bend: and in bend_ the derivative of
/// the capped scores.
template <typename T>
void CausalAttention<T>::weigh(const BlockSpec& spec, const RowMatrix<T>& qkv, const Piece& piece, const T* sinks,
                               bool keep_bend) {
  const Eigen::Index dim = spec.head_dim, keys = piece.keys();
  const T cap = static_cast<T>(spec.attention_softcap);
  T scale = static_cast<T>(score_scale(spec));
  auto p = p_.topLeftCorner(piece.rows, keys);
  p.noalias() = qkv.block(piece.begin + piece.first, piece.query_col, piece.rows, dim) *
                qkv.block(piece.begin + piece.origin, piece.key_col, keys, dim).transpose();
  if (cap != 0) {
    p.array() = (p.array() * (scale / cap)).tanh();
    if (keep_bend) bend_.topLeftCorner(piece.rows, keys).array() = T(1) - p.array().square();
    scale = cap;
  }
  for (Eigen::Index r = 0; r < piece.rows; ++r) {
    const Eigen::Index begin = oldest_seen(spec, piece.first + r) - piece.origin;
    const Eigen::Index seen = (spec.causal ? piece.first + r + 1 : piece.end) - piece.origin - begin;
    auto row = p.row(r).segment(begin, seen).array();
    T largest = row.maxCoeff();
    if (sinks == nullptr) {
      row = ((row - largest) * scale).exp();
      row /= row.sum();
    } else {
      largest = std::max(largest * scale, sinks[piece.head]);
      row = (row * scale - largest).exp();
      row /= row.sum() + std::exp(sinks[piece.head] - largest);
    }
    p.row(r).head(begin).setZero();
    p.row(r).tail(keys - begin - seen).setZero();
  }
}

template <typename T>
void CausalAttention<T>::forward(const BlockSpec& spec, const RowMatrix<T>& qkv, std::span<const uint32_t> lengths,
                                 const T* sinks, RowMatrix<T>* out) {
  const Eigen::Index dim = spec.head_dim;
  out->resize(qkv.rows(), spec.q_width());
  for_each_piece(spec, lengths, [&](const Piece& piece) {
    weigh(spec, qkv, piece, sinks, false);
    out->block(piece.begin + piece.first, piece.query_col, piece.rows, dim).noalias() =
        p_.topLeftCorner(piece.rows, piece.keys()) *
        qkv.block(piece.begin + piece.origin, piece.value_col, piece.keys(), dim);
  });
}

template <typename T>
void CausalAttention<T>::backward(const BlockSpec& spec, const RowMatrix<T>& qkv, std::span<const uint32_t> lengths,
                                  const T* sinks, const RowMatrix<T>& dy, RowMatrix<T>* dqkv, T* dsinks) {
  const Eigen::Index dim = spec.head_dim;
  const T scale = static_cast<T>(score_scale(spec));
  dqkv->setZero(qkv.rows(), qkv.cols());
  for_each_piece(spec, lengths, [&](const Piece& piece) {
    weigh(spec, qkv, piece, sinks, true);
    const Eigen::Index queries_at = piece.begin + piece.first, keys_at = piece.begin + piece.origin;
    const auto p = p_.topLeftCorner(piece.rows, piece.keys());
    auto ds = dp_.topLeftCorner(piece.rows, piece.keys());
    const auto dout = dy.block(queries_at, piece.query_col, piece.rows, dim);
    const auto values = qkv.block(keys_at, piece.value_col, piece.keys(), dim);
    dqkv->block(keys_at, piece.value_col, piece.keys(), dim).noalias() += p.transpose() * dout;
    ds.noalias() = dout * values.transpose();
    for (Eigen::Index r = 0; r < piece.rows; ++r) {
      const T mean = ds.row(r).cwiseProduct(p.row(r)).sum();
      // What the sink takes is what the keys lack; it brings no value.
      if (dsinks != nullptr) dsinks[piece.head] -= mean * (T(1) - p.row(r).sum());
      ds.row(r) = p.row(r).array() * (ds.row(r).array() - mean) * scale;
    }
    if (spec.attention_softcap != 0) ds.array() *= bend_.topLeftCorner(piece.rows, piece.keys()).array();
    dqkv->block(queries_at, piece.query_col, piece.rows, dim).noalias() =
        ds * qkv.block(keys_at, piece.key_col, piece.keys(), dim);
    dqkv->block(keys_at, piece.key_col, piece.keys(), dim).noalias() +=
        ds.transpose() * qkv.block(queries_at, piece.query_col, piece.rows, dim);
  });
}

template class CausalAttention<float>;
template class CausalAttention<double>;

}  // namespace nwc
