#include "trainer/calib/head_statistics.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "trainer/nn/random.h"

namespace nwc {
namespace {

/// Logits of one task, and tasks whose row sums are in memory together. Constants: the order of additions must not
/// depend on the machine.
constexpr Eigen::Index kLogits = Eigen::Index{1} << 24;
constexpr Eigen::Index kMaxTokens = 512;
constexpr Eigen::Index kTasks = 16;
constexpr uint64_t kDrawStream = 0x79;  // names the random numbers' purpose

struct Scratch {
  RowMatrix<float> hidden, normed, logits, d_normed, d_hidden;
  RowVector<float> slope;
};

/// One token: logits become s (onehot(y) - p), s being their slopes (empty: all 1); returns the sum of s^2 p (1 - p),
/// and adds s^2 p (1 - p) to row_sum.
float draw(Eigen::Ref<RowVector<float>> logits, const RowVector<float>& slope, uint64_t seed, uint64_t token,
           RowVector<float>* row_sum) {
  const float top = logits.maxCoeff();
  auto p = logits.array();
  p = (p - top).exp();
  double total = 0;
  for (Eigen::Index v = 0; v < logits.size(); ++v) total += double{logits[v]};
  const double threshold = Random({seed, kDrawStream, token}).uniform() * total;
  Eigen::Index y = 0;
  for (double below = double{logits[0]}; below < threshold && y + 1 < logits.size();) below += double{logits[++y]};
  p *= static_cast<float>(1 / total);
  if (slope.size() != 0) {
    row_sum->array() += slope.array().square() * p * (1.0f - p);
    const float omega = (slope.array().square() * p * (1.0f - p)).sum();
    p = -p;
    logits[y] += 1;
    p *= slope.array();
    return omega;
  }
  row_sum->array() += p * (1 - p);
  const float omega = (p * (1 - p)).sum();
  p = -p;
  logits[y] += 1;
  return omega;
}

}  // namespace

Result<HeadStatistics> head_statistics(const HeadWeights<float>& head, const RowMatrix<float>& hidden, uint64_t seed,
                                       Runner& runner, const std::function<Status(uint64_t)>& step) {
  const Eigen::Index tokens = hidden.rows(), width = hidden.cols(), vocab = head.matrix.rows();
  const Eigen::Index chunk = std::clamp<Eigen::Index>(kLogits / vocab, 1, kMaxTokens);
  HeadStatistics out;
  out.gradient.resize(tokens, width);
  out.activation.reset(width);
  out.fisher.reset(width);
  out.row_importance.assign(static_cast<size_t>(vocab), 0.0);

  std::vector<Scratch> scratch(runner.num_workers());
  std::vector<RowVector<float>> row_sums(static_cast<size_t>(kTasks));
  RowMatrix<float> normed(std::min(tokens, chunk * kTasks), width);
  std::vector<float> omega(static_cast<size_t>(normed.rows()));
  std::atomic<bool> finite{true};
  for (Eigen::Index begin = 0; begin < tokens; begin += chunk * kTasks) {
    const Eigen::Index count = std::min(chunk * kTasks, tokens - begin);
    const uint32_t tasks = static_cast<uint32_t>((count + chunk - 1) / chunk);
    parallel_for(runner, tasks, [&](uint32_t task, uint32_t worker) {
      Scratch& s = scratch[worker];
      const Eigen::Index first = static_cast<Eigen::Index>(task) * chunk;
      const Eigen::Index rows = std::min(chunk, count - first);
      s.hidden = hidden.middleRows(begin + first, rows);
      head_norm(head, s.hidden, &s.normed);
      head_logits(head, s.normed, &s.logits);
      row_sums[task].setZero(vocab);
      for (Eigen::Index t = 0; t < rows; ++t) {
        if (head.bends()) s.slope = s.logits.row(t).unaryExpr([&](float v) { return logit_slope(head, v); });
        const float sum =
            draw(s.logits.row(t), s.slope, seed, static_cast<uint64_t>(begin + first + t), &row_sums[task]);
        if (!std::isfinite(sum)) finite = false;
        omega[static_cast<size_t>(first + t)] = sum / static_cast<float>(vocab);
      }
      s.d_normed.noalias() = s.logits * head.matrix;
      head_norm_backward(head, s.hidden, s.d_normed, &s.d_hidden);
      out.gradient.middleRows(begin + first, rows) = s.d_hidden;
      normed.middleRows(first, rows) = s.normed;
    });
    if (!finite) {
      return corrupt("the model's logits are not finite: its weights or its description must be wrong");
    }
    for (uint32_t task = 0; task < tasks; ++task) {
      for (Eigen::Index v = 0; v < vocab; ++v) out.row_importance[static_cast<size_t>(v)] += double{row_sums[task][v]};
    }
    out.activation.x = out.fisher.x = &normed;
    out.fisher.weight = omega.data();
    SecondMoment* const both[] = {&out.activation, &out.fisher};
    add_moments(both, count, runner);
    NWC_TRY(step(static_cast<uint64_t>(count)));
  }
  for (double& v : out.row_importance) v /= static_cast<double>(tokens);
  out.activation.finish(static_cast<double>(tokens));
  out.fisher.finish(static_cast<double>(tokens));
  out.activation.x = out.fisher.x = nullptr;
  out.fisher.weight = nullptr;
  return out;
}

}  // namespace nwc
