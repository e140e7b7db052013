#include "trainer/calib/head_statistics.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "trainer/calib/label_sketch.h"
#include "trainer/linalg/multiply.h"
#include "trainer/parallel/relay.h"

namespace nwc {
namespace {

/// Logits of one task, and tasks whose row sums are in memory together. Constants: the order of additions must not
/// depend on the machine.
constexpr Eigen::Index kLogits = Eigen::Index{1} << 24;
constexpr Eigen::Index kMaxTokens = 512;
constexpr size_t kTasks = 16;
constexpr uint64_t kSketchStream = 0x79;  // names the random numbers' purpose

/// Some tokens of a piece.
struct Chunk {
  size_t piece = 0;        ///< in its round
  Eigen::Index at = 0;     ///< first token, among this rank's
  Eigen::Index begin = 0;  ///< the same in the text
  Eigen::Index count = 0;
};

std::vector<Chunk> cut_chunks(std::span<const Piece> pieces, Eigen::Index most) {
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    for (Eigen::Index t = 0; t < piece.tokens; t += most)
      chunks.push_back({i, piece.at + t, piece.begin + t, std::min(most, piece.tokens - t)});
  }
  return chunks;
}

struct Scratch {
  RowMatrix<float> hidden, normed, logits, d_normed, d_hidden;
  RowVector<float> slope;
};

}  // namespace

void HeadStatistics::finish(double all_tokens) {
  for (double& v : row_importance) v /= all_tokens;
  activation.finish(all_tokens);
  fisher.finish(all_tokens);
}

uint64_t head_piece_bytes(uint64_t vocab) { return vocab * sizeof(double); }

Result<HeadStatistics> head_statistics(const HeadWeights<float>& head, const RowMatrix<float>& hidden,
                                       const DealtPieces& dealt, uint64_t seed, Ranks& ranks, Runner& runner,
                                       const std::function<Status(uint64_t)>& step) {
  const Eigen::Index tokens = hidden.rows(), width = hidden.cols(), vocab = head.matrix.rows();
  HeadStatistics out;
  out.gradient.resize(tokens, width);
  out.activation.reset(width);
  out.fisher.reset(width);
  out.omega.resize(static_cast<size_t>(tokens));
  out.row_importance.assign(static_cast<size_t>(vocab), 0.0);

  std::vector<Scratch> scratch(runner.num_workers());
  std::vector<RowVector<float>> row_sums(kTasks);
  RowMatrix<float> normed(tokens, width);
  std::atomic<bool> finite{true};
  std::vector<double*> importance;
  for (double& v : out.row_importance) importance.push_back(&v);
  for (size_t round = 0; round < dealt.rounds(); ++round) {
    const std::span<const Piece> pieces = dealt.round(round);
    const std::vector<Chunk> chunks = cut_chunks(pieces, std::clamp<Eigen::Index>(kLogits / vocab, 1, kMaxTokens));
    std::vector<RowVector<double>> piece_rows(pieces.size(), RowVector<double>::Zero(vocab));
    for (size_t first = 0; first < chunks.size(); first += kTasks) {
      const size_t tasks = std::min(kTasks, chunks.size() - first);
      parallel_for(runner, static_cast<uint32_t>(tasks), [&](uint32_t task, uint32_t worker) {
        Scratch& s = scratch[worker];
        const Chunk& chunk = chunks[first + task];
        s.hidden = hidden.middleRows(chunk.at, chunk.count);
        head_norm(head, s.hidden, &s.normed);
        head_logits(head, s.normed, &s.logits);
        row_sums[task].setZero(vocab);
        for (Eigen::Index t = 0; t < chunk.count; ++t) {
          if (head.bends()) s.slope = s.logits.row(t).unaryExpr([&](float v) { return logit_slope(head, v); });
          const Random random({seed, kSketchStream, static_cast<uint64_t>(chunk.begin + t)});
          const float sum = sketch_label(s.logits.row(t), s.slope, random, &row_sums[task]);
          if (!std::isfinite(sum)) finite = false;
          out.omega[static_cast<size_t>(chunk.at + t)] = sum / static_cast<float>(vocab);
        }
        s.d_normed.resize(s.logits.rows(), head.matrix.cols());
        multiply<float>(Form::kAB, s.logits, head.matrix, false, s.d_normed);
        head_norm_backward(head, s.hidden, s.d_normed, &s.d_hidden);
        out.gradient.middleRows(chunk.at, chunk.count) = s.d_hidden;
        normed.middleRows(chunk.at, chunk.count) = s.normed;
      });
      if (!finite) {
        return corrupt("the model's logits are not finite: its weights or its description must be wrong");
      }
      uint64_t done = 0;
      for (size_t task = 0; task < tasks; ++task) {
        piece_rows[chunks[first + task].piece] += row_sums[task].cast<double>();
        done += static_cast<uint64_t>(chunks[first + task].count);
      }
      NWC_TRY(step(done));
    }
    out.activation.parts.clear();
    out.fisher.parts.clear();
    for (const Piece& piece : pieces) {
      out.activation.parts.push_back({&normed, piece.at, piece.tokens, nullptr});
      out.fisher.parts.push_back({&normed, piece.at, piece.tokens, out.omega.data() + piece.at});
    }
    NWC_TRY(relay(ranks, importance, [&] {
      for (const RowVector<double>& rows : piece_rows) {
        for (Eigen::Index v = 0; v < vocab; ++v) out.row_importance[static_cast<size_t>(v)] += rows[v];
      }
    }));
    SecondMoment* const both[] = {&out.activation, &out.fisher};
    NWC_TRY(add_moments(both, ranks, runner));
  }
  out.activation.parts.clear();
  out.fisher.parts.clear();
  return out;
}

}  // namespace nwc
