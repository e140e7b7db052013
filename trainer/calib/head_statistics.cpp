#include "trainer/calib/head_statistics.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "trainer/calib/label_sketch.h"

namespace nwc {
namespace {

/// Logits of one task, and tasks whose row sums are in memory together. Constants: the order of additions must not
/// depend on the machine.
constexpr Eigen::Index kLogits = Eigen::Index{1} << 24;
constexpr Eigen::Index kMaxTokens = 512;
constexpr Eigen::Index kTasks = 16;
constexpr uint64_t kSketchStream = 0x79;  // names the random numbers' purpose

struct Scratch {
  RowMatrix<float> hidden, normed, logits, d_normed, d_hidden;
  RowVector<float> slope;
};

}  // namespace

Result<HeadStatistics> head_statistics(const HeadWeights<float>& head, const RowMatrix<float>& hidden, uint64_t seed,
                                       Runner& runner, const std::function<Status(uint64_t)>& step) {
  const Eigen::Index tokens = hidden.rows(), width = hidden.cols(), vocab = head.matrix.rows();
  const Eigen::Index chunk = std::clamp<Eigen::Index>(kLogits / vocab, 1, kMaxTokens);
  HeadStatistics out;
  out.gradient.resize(tokens, width);
  out.activation.reset(width);
  out.fisher.reset(width);
  out.omega.resize(static_cast<size_t>(tokens));
  out.row_importance.assign(static_cast<size_t>(vocab), 0.0);

  std::vector<Scratch> scratch(runner.num_workers());
  std::vector<RowVector<float>> row_sums(static_cast<size_t>(kTasks));
  RowMatrix<float> normed(std::min(tokens, chunk * kTasks), width);
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
        const Random random({seed, kSketchStream, static_cast<uint64_t>(begin + first + t)});
        const float sum = sketch_label(s.logits.row(t), s.slope, random, &row_sums[task]);
        if (!std::isfinite(sum)) finite = false;
        out.omega[static_cast<size_t>(begin + first + t)] = sum / static_cast<float>(vocab);
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
    out.fisher.weight = out.omega.data() + begin;
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
