#include "trainer/recover/head_divergence.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "trainer/linalg/multiply.h"
#include "trainer/llm/norm_rows.h"

namespace nwc {
namespace {

constexpr Eigen::Index kLogits = Eigen::Index{1} << 22;  ///< of a task and a model; a constant, as sums depend on it
constexpr Eigen::Index kMaxTokens = 256;                 ///< of a task

/// What a task adds to the sums.
struct Task {
  double divergence = 0;
  RowVector<float> gain, bias;
};

struct Scratch {
  RowMatrix<float> states, normed, wanted, logits, slopes, d_normed;
};

/// Logits become logarithms of probabilities.
void log_softmax(RowMatrix<float>* logits) {
  for (Eigen::Index t = 0; t < logits->rows(); ++t) {
    auto row = logits->row(t).array();
    const float top = row.maxCoeff();
    row -= top + std::log((row - top).exp().sum());
  }
}

}  // namespace

Result<double> head_divergence(const HeadWeights<float>& wanted_head, const RowMatrix<float>& wanted_states,
                               const HeadWeights<float>& head, const HeadNorm& norm, const RowMatrix<float>& states,
                               Runner& runner, HeadGradient* gradient) {
  const Eigen::Index tokens = states.rows(), vocab = head.matrix.rows();
  const Eigen::Index most = std::clamp<Eigen::Index>(kLogits / vocab, 1, kMaxTokens);
  const bool has_norm = norm.gain.size() != 0;
  std::vector<Task> tasks(static_cast<size_t>((tokens + most - 1) / most));
  std::vector<Scratch> scratch(runner.num_workers());
  if (gradient != nullptr) gradient->states.setZero(tokens, states.cols());
  parallel_for(runner, static_cast<uint32_t>(tasks.size()), [&](uint32_t i, uint32_t worker) {
    Scratch& s = scratch[worker];
    Task& task = tasks[i];
    const Eigen::Index first = Eigen::Index{i} * most, count = std::min(most, tokens - first);
    s.states = wanted_states.middleRows(first, count);
    head_norm(wanted_head, s.states, &s.normed);
    head_logits(wanted_head, s.normed, &s.wanted);
    log_softmax(&s.wanted);
    RowNorm<float> rows(head.norm, head.epsilon, norm.gain, norm.bias);
    s.normed = states.middleRows(first, count);
    for (Eigen::Index t = 0; has_norm && t < count; ++t) rows.forward(states.row(first + t), s.normed.row(t));
    head_logits(head, s.normed, &s.logits);
    const bool bends = gradient != nullptr && head.bends();
    if (bends) s.slopes = s.logits.unaryExpr([&](float v) { return logit_slope(head, v); });
    log_softmax(&s.logits);
    for (Eigen::Index t = 0; t < count; ++t) {
      const auto p = s.wanted.row(t).array(), q = s.logits.row(t).array();
      task.divergence += double{(p.exp() * (p - q)).sum()};
    }
    if (gradient == nullptr) return;
    s.logits = (s.logits.array().exp() - s.wanted.array().exp()) / static_cast<float>(tokens);
    if (bends) s.logits = s.logits.cwiseProduct(s.slopes);
    s.d_normed.resize(count, head.matrix.cols());
    multiply<float>(Form::kAB, s.logits, head.matrix, false, s.d_normed);
    if (!has_norm) {
      gradient->states.middleRows(first, count) = s.d_normed;
      return;
    }
    task.gain.setZero(norm.gain.size());
    task.bias.setZero(norm.bias.size());
    for (Eigen::Index t = 0; t < count; ++t)
      rows.backward(states.row(first + t), s.d_normed.row(t), gradient->states.row(first + t), task.gain.data(),
                    norm.bias.size() == 0 ? nullptr : task.bias.data());
  });
  double sum = 0;
  for (const Task& task : tasks) sum += task.divergence;
  if (!std::isfinite(sum)) return corrupt("the model's predictions are not finite: its weights must be wrong");
  if (gradient == nullptr) return sum;
  gradient->gain.setZero(norm.gain.size());
  gradient->bias.setZero(norm.bias.size());
  for (const Task& task : tasks) {
    if (task.gain.size() != 0) gradient->gain += task.gain;
    if (task.bias.size() != 0) gradient->bias += task.bias;
  }
  return sum;
}

}  // namespace nwc
