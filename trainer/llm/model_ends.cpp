#include "trainer/llm/model_ends.h"

#include <cassert>

#include "trainer/linalg/multiply.h"
#include "trainer/llm/norm_rows.h"

namespace nwc {

void embed_tokens(const EndsSpec& ends, const RowMatrix<float>& table, const RowMatrix<float>& positions,
                  std::span<const uint32_t> tokens, std::span<const uint32_t> lengths, RowMatrix<float>* out) {
  out->resize(eigen_index(tokens.size()), table.cols());
  for (size_t t = 0; t < tokens.size(); ++t) out->row(eigen_index(t)) = table.row(Eigen::Index{tokens[t]});
  if (ends.embedding_scale != 1) *out *= ends.embedding_scale;
  if (positions.size() == 0) return;
  Eigen::Index at = 0;
  for (const uint32_t length : lengths) {
    out->middleRows(at, length) += positions.topRows(length);
    at += length;
  }
}

template <typename T>
void head_norm(const HeadWeights<T>& head, const RowMatrix<T>& hidden, RowMatrix<T>* normed) {
  normed->resize(hidden.rows(), hidden.cols());
  if (head.gain.size() == 0) {
    *normed = hidden;
    return;
  }
  RowNorm<T> norm(head.norm, head.epsilon, head.gain, head.norm_bias);
  for (Eigen::Index t = 0; t < hidden.rows(); ++t) norm.forward(hidden.row(t), normed->row(t));
}

template <typename T>
void head_norm_backward(const HeadWeights<T>& head, const RowMatrix<T>& hidden, const RowMatrix<T>& d_normed,
                        RowMatrix<T>* d_hidden) {
  if (head.gain.size() == 0) {
    *d_hidden = d_normed;
    return;
  }
  d_hidden->setZero(hidden.rows(), hidden.cols());
  RowNorm<T> norm(head.norm, head.epsilon, head.gain, head.norm_bias);
  for (Eigen::Index t = 0; t < hidden.rows(); ++t)
    norm.backward(hidden.row(t), d_normed.row(t), d_hidden->row(t), nullptr, nullptr);
}

template <typename T>
void head_logits(const HeadWeights<T>& head, const RowMatrix<T>& normed, RowMatrix<T>* logits) {
  logits->resize(normed.rows(), head.matrix.rows());
  multiply<T>(Form::kABt, normed, head.matrix, false, *logits);
  if (head.bias.size() != 0) logits->rowwise() += head.bias;
  if (head.logit_scale != 1) *logits *= head.logit_scale;
  if (head.logit_softcap != 0) logits->array() = (logits->array() / head.logit_softcap).tanh() * head.logit_softcap;
}

template void head_norm(const HeadWeights<float>&, const RowMatrix<float>&, RowMatrix<float>*);
template void head_norm(const HeadWeights<double>&, const RowMatrix<double>&, RowMatrix<double>*);
template void head_norm_backward(const HeadWeights<float>&, const RowMatrix<float>&, const RowMatrix<float>&,
                                 RowMatrix<float>*);
template void head_norm_backward(const HeadWeights<double>&, const RowMatrix<double>&, const RowMatrix<double>&,
                                 RowMatrix<double>*);
template void head_logits(const HeadWeights<float>&, const RowMatrix<float>&, RowMatrix<float>*);
template void head_logits(const HeadWeights<double>&, const RowMatrix<double>&, RowMatrix<double>*);

}  // namespace nwc
