#include "trainer/llm/pooling.h"

#include <algorithm>

#include "trainer/llm/mlp_activation.h"
#include "trainer/llm/norm_rows.h"

namespace nwc {
namespace {

/// The row that is pooled, where it is one.
template <typename T>
Eigen::Index pooled_row(const PoolingWeights<T>& w, Eigen::Index count, std::span<const uint32_t> ids) {
  if (w.spec.pooling == Pooling::kFirst) return 0;
  Eigen::Index row = 0;
  const auto ends = [&](uint32_t id) { return std::find(w.eos_ids.begin(), w.eos_ids.end(), id) != w.eos_ids.end(); };
  while (row + 1 < count && !ends(ids[static_cast<size_t>(row)])) ++row;
  return row;
}

/// Pooling by attention, with what its backward pass needs.
template <typename T>
struct Attention {
  RowVector<T> query, attended, joined, normed, inner, activated;
  RowMatrix<T> keys, values, shares;  ///< shares [heads][tokens]
};

template <typename T>
RowVector<T> attention_forward(const PoolingWeights<T>& w, const RowMatrix<T>& states, Attention<T>* a) {
  const Eigen::Index n = states.cols(), dim = w.block.head_dim, heads = w.block.num_heads;
  a->query = w.probe * w.qkv.topRows(n).transpose() + w.qkv_bias.head(n);
  a->keys = (states * w.qkv.middleRows(n, n).transpose()).rowwise() + w.qkv_bias.segment(n, n);
  a->values = (states * w.qkv.bottomRows(n).transpose()).rowwise() + w.qkv_bias.tail(n);
  a->shares.resize(heads, states.rows());
  a->attended.resize(n);
  const T scale = static_cast<T>(score_scale(w.block));
  for (Eigen::Index h = 0; h < heads; ++h) {
    const auto q = a->query.segment(h * dim, dim);
    RowVector<T> scores = scale * (q * a->keys.middleCols(h * dim, dim).transpose());
    scores = (scores.array() - scores.maxCoeff()).exp();
    a->shares.row(h) = scores / scores.sum();
    a->attended.segment(h * dim, dim) = a->shares.row(h) * a->values.middleCols(h * dim, dim);
  }
  a->joined = a->attended * w.output.transpose() + w.output_bias;
  RowNorm<T> norm(w.block.norm, static_cast<T>(w.block.norm_eps), w.pool_norm_gain, w.pool_norm_bias);
  a->normed.resize(n);
  norm.forward(a->joined, a->normed);
  a->inner = a->normed * w.up.transpose() + w.up_bias;
  RowMatrix<T> activated;
  const RowMatrix<T> inner = a->inner;
  activate_forward<T>(w.block.activation, inner, static_cast<const RowMatrix<T>*>(nullptr), &activated);
  a->activated = activated.row(0);
  return a->joined + a->activated * w.down.transpose() + w.down_bias;
}

template <typename T>
void attention_backward(const PoolingWeights<T>& w, const Attention<T>& a, const RowVector<T>& dy,
                        RowMatrix<T>* d_states) {
  const Eigen::Index n = dy.size(), dim = w.block.head_dim, heads = w.block.num_heads;
  const RowMatrix<T> d_activated = dy * w.down, inner = a.inner;
  RowMatrix<T> d_inner(1, inner.cols());
  activate_backward<T>(w.block.activation, inner, static_cast<const RowMatrix<T>*>(nullptr), d_activated, &d_inner,
                       static_cast<RowMatrix<T>*>(nullptr));
  const RowVector<T> d_normed = d_inner.row(0) * w.up;
  RowVector<T> d_joined = dy;
  RowNorm<T> norm(w.block.norm, static_cast<T>(w.block.norm_eps), w.pool_norm_gain, w.pool_norm_bias);
  norm.backward(a.joined, d_normed, d_joined, nullptr, nullptr);
  const RowVector<T> d_attended = d_joined * w.output;
  const T scale = static_cast<T>(score_scale(w.block));
  for (Eigen::Index h = 0; h < heads; ++h) {
    const auto share = a.shares.row(h);
    const auto d = d_attended.segment(h * dim, dim);
    const RowMatrix<T> d_values = share.transpose() * d;
    RowVector<T> d_shares = d * a.values.middleCols(h * dim, dim).transpose();
    const T mean = d_shares.dot(share);
    d_shares = share.array() * (d_shares.array() - mean) * scale;
    const RowMatrix<T> d_keys = d_shares.transpose() * a.query.segment(h * dim, dim);
    *d_states += d_keys * w.qkv.middleRows(n + h * dim, dim) + d_values * w.qkv.middleRows(2 * n + h * dim, dim);
  }
}

/// What lies between pooling and the last division.
template <typename T>
struct Pooled {
  Attention<T> attention;
  RowVector<T> state, normed, pooled, projected;
};

template <typename T>
Pooled<T> run(const PoolingWeights<T>& w, const RowMatrix<T>& states, std::span<const uint32_t> ids) {
  Pooled<T> p;
  switch (w.spec.pooling) {
    case Pooling::kMean: p.state = states.colwise().mean(); break;
    case Pooling::kAttention: p.state = attention_forward(w, states, &p.attention); break;
    default: p.state = states.row(pooled_row(w, states.rows(), ids)); break;
  }
  p.normed = p.state;
  if (w.norm_gain.size() != 0) {
    RowNorm<T> norm(w.block.norm, static_cast<T>(w.block.norm_eps), w.norm_gain, w.norm_bias);
    norm.forward(p.state, p.normed);
  }
  p.pooled = p.normed;
  if (w.pooler.size() != 0) p.pooled = (p.normed * w.pooler.transpose() + w.pooler_bias).array().tanh();
  p.projected = p.pooled;
  if (w.projection.size() != 0) p.projected = p.pooled * w.projection.transpose();
  return p;
}

}  // namespace

template <typename T>
void pool_forward(const PoolingWeights<T>& w, const RowMatrix<T>& states, std::span<const uint32_t> ids,
                  RowVector<T>* embedding) {
  *embedding = run(w, states, ids).projected;
  if (w.spec.normalized) *embedding /= std::max(embedding->norm(), T(1e-12));
}

template <typename T>
void pool_backward(const PoolingWeights<T>& w, const RowMatrix<T>& states, std::span<const uint32_t> ids,
                   const RowVector<T>& d_embedding, RowMatrix<T>* d_states) {
  const Pooled<T> p = run(w, states, ids);
  RowVector<T> d = d_embedding;
  if (w.spec.normalized) {
    const T length = std::max(p.projected.norm(), T(1e-12));
    const RowVector<T> unit = p.projected / length;
    d = (d - d.dot(unit) * unit) / length;
  }
  if (w.projection.size() != 0) d = RowVector<T>(d * w.projection);
  if (w.pooler.size() != 0) d = RowVector<T>((d.array() * (T(1) - p.pooled.array().square())).matrix() * w.pooler);
  if (w.norm_gain.size() != 0) {
    RowVector<T> before = RowVector<T>::Zero(d.size());
    RowNorm<T> norm(w.block.norm, static_cast<T>(w.block.norm_eps), w.norm_gain, w.norm_bias);
    norm.backward(p.state, d, before, nullptr, nullptr);
    d = before;
  }
  d_states->setZero(states.rows(), states.cols());
  switch (w.spec.pooling) {
    case Pooling::kMean: d_states->rowwise() = RowVector<T>(d / static_cast<T>(states.rows())); break;
    case Pooling::kAttention: attention_backward(w, p.attention, d, d_states); break;
    default: d_states->row(pooled_row(w, states.rows(), ids)) = d; break;
  }
}

template void pool_forward(const PoolingWeights<float>&, const RowMatrix<float>&, std::span<const uint32_t>,
                           RowVector<float>*);
template void pool_forward(const PoolingWeights<double>&, const RowMatrix<double>&, std::span<const uint32_t>,
                           RowVector<double>*);
template void pool_backward(const PoolingWeights<float>&, const RowMatrix<float>&, std::span<const uint32_t>,
                            const RowVector<float>&, RowMatrix<float>*);
template void pool_backward(const PoolingWeights<double>&, const RowMatrix<double>&, std::span<const uint32_t>,
                            const RowVector<double>&, RowMatrix<double>*);

}  // namespace nwc
