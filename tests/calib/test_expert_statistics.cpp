// The statistics of experts, against sums in double: what a share of the text costs, and what few tokens say.
#include "tests/encode/test_source.h"
#include "tests/engine/family_fixture.h"
#include "tests/parallel/local_ranks.h"
#include "trainer/calib/block_statistics.h"
#include "trainer/calib/pieces.h"
#include "trainer/llm/model_graph.h"
#include "trainer/nn/random.h"

namespace nwc::test {
namespace {

RowMatrix<float> random_matrix(uint64_t seed, Eigen::Index rows, Eigen::Index cols) {
  Random random({seed});
  RowMatrix<float> m(rows, cols);
  for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(random.normal());
  return m;
}

/// A layer of a tiny mixture, forward and backward over two pieces of text.
struct Layer {
  FamilyFixture fixture = make_family("qwen3_moe");
  std::unique_ptr<ModelSource> source = open_model_source(fixture.folder).value();
  ModelGraph model = ModelGraph::open(*source, 24).value();
  const LayerGraph& graph = model.layer(0);
  LayerWeights<float> weights = model.load_layer(0).value();
  std::vector<std::vector<uint32_t>> lengths = {{24, 3}, {11}};
  std::vector<RowMatrix<float>> inputs = {random_matrix(1, 27, 32), random_matrix(2, 11, 32)};
  std::vector<LayerPass<float>> passes = std::vector<LayerPass<float>>(2);
  static constexpr double kTokens = 38;

  Layer() {
    for (size_t i = 0; i < 2; ++i) {
      RowMatrix<float> dx;
      passes[i].forward(graph, weights, inputs[i], lengths[i]);
      passes[i].backward(graph, weights, random_matrix(3 + i, inputs[i].rows(), 32), &dx, nullptr);
    }
  }

  std::vector<TensorMoments> moments(BlockStatistics* statistics) {
    const auto runner = make_thread_pool(2);
    Eigen::Index at = 0;
    for (size_t round = 0; round < 2; ++round) {  // a round for each
      statistics->begin_round(inputs[round].rows(), 1);
      statistics->take(0, 0, lengths[round], passes[round]);
      EXPECT_TRUE(statistics->end_round(one_rank(), *runner).ok());
      at += inputs[round].rows();
    }
    std::vector<std::string> names(graph.matrices().size());
    return statistics->finish(names, at);
  }
};

/// Sums over the tokens of one expert, or of all of a layer.
struct Sums {
  RowMatrix<double> fisher = RowMatrix<double>::Zero(1, 1);
  RowVector<double> rows;
  double energy = 0, tokens = 0;

  void add(const Sums& o) {
    fisher = fisher.size() == 1 ? o.fisher : RowMatrix<double>(fisher + o.fisher);
    rows = rows.size() == 0 ? o.rows : RowVector<double>(rows + o.rows);
    energy += o.energy;
    tokens += o.tokens;
  }
};

Sums sums_of(const Layer& layer, size_t m) {
  const LayerMatrix& matrix = layer.graph.matrices()[m];
  Sums out;
  out.fisher = RowMatrix<double>::Zero(matrix.cols, matrix.cols);
  out.rows = RowVector<double>::Zero(matrix.rows);
  for (size_t i = 0; i < 2; ++i) {
    const RowMatrix<double> x = layer.passes[i].input(layer.graph, m).cast<double>();
    const RowMatrix<double> g = RowMatrix<float>(layer.passes[i].output_gradient(layer.graph, m)).cast<double>();
    const auto tokens = layer.passes[i].expert_tokens(matrix.expert);
    uint32_t begin = 0;
    for (const uint32_t length : layer.lengths[i]) {
      RowMatrix<double> gradient = RowMatrix<double>::Zero(matrix.rows, matrix.cols);
      for (size_t n = 0; n < tokens.size(); ++n) {
        if (tokens[n] < begin || tokens[n] >= begin + length) continue;
        const auto row = eigen_index(n);
        gradient += g.row(row).transpose() * x.row(row);
        out.fisher += g.row(row).squaredNorm() / static_cast<double>(matrix.rows) * x.row(row).transpose() * x.row(row);
        out.rows += g.row(row).cwiseAbs2();
        out.tokens += 1;
      }
      out.energy += gradient.squaredNorm();
      begin += length;
    }
  }
  return out;
}

TEST(ExpertStatistics, AreDrawnTowardsTheLayersByHowFewTokensTheyAreOf) {
  Layer layer;
  BlockStatistics statistics(layer.graph, false);
  const std::vector<TensorMoments> moments = layer.moments(&statistics);
  const size_t first = layer.graph.first_expert_matrix(), step = layer.graph.per_expert();
  bool few = false, many = false;
  for (size_t j = 0; j < step; ++j) {
    Sums all;
    for (size_t m = first + j; m < moments.size(); m += step) all.add(sums_of(layer, m));
    EXPECT_EQ(all.tokens, layer.graph.spec().experts.per_token * Layer::kTokens);
    for (size_t m = first + j; m < moments.size(); m += step) {
      const Sums own = sums_of(layer, m);
      const double k = static_cast<double>(layer.graph.matrices()[m].cols);
      const bool is_few = own.tokens < 16;
      (is_few ? few : many) = true;
      const double of_own = is_few ? 0 : 1 / (own.tokens + k);
      const double of_all = (is_few ? 1 : k / (own.tokens + k)) / all.tokens;
      RowMatrix<double> expected = of_own * own.fisher + of_all * all.fisher;
      const double rows = static_cast<double>(own.rows.size());
      const double energy = of_own * own.energy + of_all * all.energy;
      expected *= energy / (expected.trace() * rows) * (own.tokens + 0.5) / Layer::kTokens;
      const RowMatrix<double> actual = moments[m].fisher->cast<double>();
      EXPECT_LT((actual - expected).cwiseAbs().maxCoeff(), 1e-4 * expected.cwiseAbs().maxCoeff()) << m;
      const RowVector<double> importance = of_own * own.rows + of_all * all.rows;
      for (Eigen::Index r = 0; r < importance.size(); ++r) {
        EXPECT_NEAR(double{moments[m].row_importance[static_cast<size_t>(r)]}, importance[r] / importance.mean(), 1e-4);
      }
    }
  }
  EXPECT_TRUE(few && many) << "the tokens should fall on both sides of the floor";
}

// So that bits are shared out among experts by their use.
TEST(ExpertStatistics, CostByUse) {
  Layer layer;
  BlockStatistics statistics(layer.graph, false);
  const std::vector<TensorMoments> moments = layer.moments(&statistics);
  const size_t first = layer.graph.first_expert_matrix(), step = layer.graph.per_expert();
  double least = INFINITY, most = 0, cost_of_least = 0, cost_of_most = 0;
  for (size_t m = first; m < moments.size(); m += step) {
    const double tokens = sums_of(layer, m).tokens, cost = double{moments[m].fisher->trace()};
    if (tokens < least) least = tokens, cost_of_least = cost;
    if (tokens > most) most = tokens, cost_of_most = cost;
  }
  EXPECT_LT(least, most);
  EXPECT_LT(cost_of_least, cost_of_most);
}

// Each of two ranks has one of the pieces, or the second of three has both: the bits of one that has them all.
TEST(ExpertStatistics, DoNotDependOnTheRanks) {
  Layer layer;
  const std::vector<std::string> names(layer.graph.matrices().size());
  const auto collect = [&](Ranks& ranks, std::vector<size_t> pieces, BlockStatistics* statistics) {
    const auto runner = make_thread_pool(1);
    Eigen::Index tokens = 0, at = 0;
    for (const size_t piece : pieces) tokens += layer.inputs[piece].rows();
    statistics->begin_round(tokens, pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) {
      statistics->take(i, at, layer.lengths[pieces[i]], layer.passes[pieces[i]]);
      at += layer.inputs[pieces[i]].rows();
    }
    EXPECT_TRUE(statistics->end_round(ranks, *runner).ok());
  };
  BlockStatistics alone(layer.graph, true);
  collect(one_rank(), {0, 1}, &alone);
  const std::vector<TensorMoments> expected = alone.finish(names, 38);
  for (const std::vector<std::vector<size_t>>& dealt :
       std::vector<std::vector<std::vector<size_t>>>{{{0}, {1}}, {{}, {0, 1}, {}}}) {
    testing::run_as_ranks(static_cast<uint32_t>(dealt.size()), [&](Ranks& ranks) {
      BlockStatistics shared(layer.graph, true);
      collect(ranks, dealt[ranks.rank()], &shared);
      if (!ranks.first()) return;
      const std::vector<TensorMoments> moments = shared.finish(names, 38);
      for (size_t m = 0; m < moments.size(); ++m) {
        EXPECT_TRUE(*moments[m].fisher == *expected[m].fisher) << m;
        EXPECT_EQ(moments[m].hessian == nullptr, expected[m].hessian == nullptr);
        if (moments[m].hessian != nullptr) {
          EXPECT_TRUE(*moments[m].hessian == *expected[m].hessian) << m;
        }
        EXPECT_EQ(moments[m].row_importance, expected[m].row_importance) << m;
        EXPECT_EQ(moments[m].effective_tokens, expected[m].effective_tokens) << m;
      }
    });
  }
}

TEST(Pieces, EachGoesToOneRankInTheTextsOrder) {
  const std::vector<Piece> all = cut_pieces(10000, 300);  // pieces of 600 tokens, and 400
  ASSERT_EQ(all.size(), 17u);
  for (const uint32_t ranks : {1u, 2u, 3u, 20u}) {
    for (const size_t most : {1u, 2u, 100u}) {
      std::vector<DealtPieces> dealt;
      for (uint32_t rank = 0; rank < ranks; ++rank) dealt.push_back(deal_pieces(all, rank, ranks, most));
      Eigen::Index next = 0;
      for (size_t round = 0; round < dealt[0].rounds(); ++round) {
        for (const DealtPieces& d : dealt) {
          EXPECT_LE(d.round(round).size(), most);
          for (const Piece& piece : d.round(round)) {
            EXPECT_EQ(piece.begin, next);
            next += piece.tokens;
          }
        }
      }
      EXPECT_EQ(next, 10000) << ranks << " ranks, " << most << " pieces a round";
    }
  }
}

}  // namespace
}  // namespace nwc::test
