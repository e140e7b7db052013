// Forward through the blocks, keeping the hidden states between them; logits, and from each token's prediction a sketch
// of the gradient of log p(y); then back from the last block to the first with the sum of these over the tokens. A sum,
// because the tokens' sketches are independent: the expectation of the outer product of that gradient is the sum of the
// tokens' Fisher informations.
#include "trainer/calib/calibration_run.h"

#include <algorithm>
#include <atomic>
#include <optional>

#include "trainer/calib/block_statistics.h"
#include "trainer/calib/head_statistics.h"
#include "trainer/calib/hidden_store.h"
#include "trainer/calib/row_shares.h"
#include "trainer/llm/feature_stream.h"
#include "trainer/nn/random.h"

namespace nwc {
namespace {

/// Tokens that pass through a block together: whole sequences, at least so many.
constexpr Eigen::Index kPieceTokens = 512;
/// Inputs of a block's layers that are in memory before they are multiplied into the moments.
constexpr uint64_t kRoundBytes = uint64_t{512} << 20;

std::string layer_file(uint32_t layer) { return "layer-" + std::to_string(layer) + ".safetensors"; }
constexpr const char* kEmbeddingFile = "embedding.safetensors";
constexpr const char* kPositionsFile = "positions.safetensors";
constexpr const char* kHeadFile = "head.safetensors";
constexpr uint64_t kDirectionStream = 0x7a;  // names the random numbers' purpose

/// Is the head the embedding? An encoder has none.
bool is_tied(const ModelGraph& graph) { return graph.layout().has_head() && !graph.layout().separate_head(); }

/// Sequences that one task takes through a block.
struct Piece {
  Eigen::Index begin = 0, tokens = 0;
  std::vector<uint32_t> lengths;
};

class Run {
 public:
  Run(const ModelGraph& graph, std::span<const uint32_t> tokens, const CalibrationIndex& index,
      const CalibrationOptions& options, const std::string& folder, Runner& runner, const Progress& progress)
      : graph_(graph),
        model_(graph.model()),
        tokens_(tokens),
        hash_(index.hash),
        options_(options),
        folder_(folder),
        runner_(runner),
        progress_(progress),
        passes_(runner.num_workers()),
        inputs_(runner.num_workers()),
        store_(folder, options.memory_bytes) {
    cut();
  }

  Status run() {
    NWC_TRY(step(0));
    NWC_TRY(forward());
    NWC_TRY(head());
    for (uint32_t l = model_.num_layers; l-- > 0;) NWC_TRY(backward(l));
    return embedding();
  }

 private:
  Eigen::Index num_tokens() const { return static_cast<Eigen::Index>(tokens_.size()); }
  std::string path(const std::string& file) const { return folder_ + "/" + file; }
  void cut();
  Status step(uint64_t tokens);
  Status forward();
  Status head();
  Status pooling();
  Status backward(uint32_t layer);
  void backward_piece(uint32_t layer, const LayerWeights<float>& weights, const Piece& piece, uint32_t worker);
  Status embedding();
  Status positions(const RowMatrix<float>& moment, double effective_tokens);

  const ModelGraph& graph_;
  const ModelRecord& model_;
  const std::span<const uint32_t> tokens_;
  const std::string hash_;
  const CalibrationOptions& options_;
  const std::string folder_;
  Runner& runner_;
  const Progress& progress_;
  uint64_t done_ = 0;

  std::vector<Piece> pieces_;
  std::vector<LayerPass<float>> passes_;  ///< one per worker
  std::vector<RowMatrix<float>> inputs_;  ///< that passes_ refer to; matrices without a norm in front read them
  HiddenStore store_;
  RowMatrix<float> hidden_;    ///< [tokens][hidden] at the boundary that the passes have reached
  RowMatrix<float> gradient_;  ///< [tokens][hidden] there, on the way back
  HeadStatistics head_;        ///< of a tied head, for embedding()
};

void Run::cut() {
  Eigen::Index at = 0;
  for (const uint32_t length : cut_sequences(tokens_.size(), graph_.context())) {
    if (pieces_.empty() || pieces_.back().tokens >= kPieceTokens) pieces_.emplace_back().begin = at;
    pieces_.back().lengths.push_back(length);
    pieces_.back().tokens += length;
    at += length;
  }
}

/// A block backward, with its moments, counts as three of its forward passes; so does the head.
Status Run::step(uint64_t tokens) {
  done_ += tokens;
  const uint64_t total = tokens_.size() * (uint64_t{model_.num_layers} * 4 + 3);
  if (progress_.report(std::min(done_, total), total)) return {};
  return Status(StatusCode::kCancelled,
                "the calibration was cancelled; the layers that are done are kept in " + folder_);
}

Status Run::forward() {
  NWC_ASSIGN_OR_RETURN(FeatureStream stream, FeatureStream::open(graph_, tokens_));
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    NWC_TRY(stream.advance(runner_));
    NWC_TRY(store_.push(stream.inputs()));
    NWC_TRY(step(tokens_.size()));
  }
  hidden_ = stream.outputs();
  return {};
}

/// Of an encoder: its embedding e stands for the prediction. For each sequence a direction v is drawn, of independent
/// standard normal numbers, and the gradient is that of v . e: E_v[g g^T] = J^T J, so that an error costs half of the
/// expected squared change of the embedding.
Status Run::pooling() {
  NWC_ASSIGN_OR_RETURN(const HeadWeights<float> norm, graph_.load_final_norm());
  NWC_ASSIGN_OR_RETURN(const PoolingWeights<float> weights, graph_.load_pooling());
  gradient_.resize(hidden_.rows(), hidden_.cols());
  struct Sequence {
    Eigen::Index begin = 0;
    uint32_t length = 0;
  };
  std::vector<Sequence> sequences;
  for (const Piece& piece : pieces_) {
    Eigen::Index at = piece.begin;
    for (const uint32_t length : piece.lengths) {
      sequences.push_back({at, length});
      at += length;
    }
  }
  std::atomic<bool> finite{true};
  parallel_for(runner_, static_cast<uint32_t>(sequences.size()), [&](uint32_t i, uint32_t) {
    const auto [begin, length] = sequences[i];
    const RowMatrix<float> hidden = hidden_.middleRows(begin, length);
    RowMatrix<float> states, d_states, d_hidden;
    head_norm(norm, hidden, &states);
    RowVector<float> direction(model_.embedding_size());
    Random random({options_.seed, kDirectionStream, i});
    for (float& v : direction) v = static_cast<float>(random.normal());
    pool_backward(weights, states, tokens_.subspan(static_cast<size_t>(begin), length), direction, &d_states);
    head_norm_backward(norm, hidden, d_states, &d_hidden);
    if (!d_hidden.allFinite()) finite = false;
    gradient_.middleRows(begin, length) = d_hidden;
  });
  if (!finite) return corrupt("the model's embeddings are not finite: its weights or its description must be wrong");
  return step(3 * tokens_.size());
}

Status Run::head() {
  if (model_.is_encoder()) return pooling();
  NWC_ASSIGN_OR_RETURN(const HeadWeights<float> weights, graph_.load_head());
  NWC_ASSIGN_OR_RETURN(head_, head_statistics(weights, hidden_, options_.seed, runner_,
                                              [this](uint64_t tokens) { return step(3 * tokens); }));
  add_foreign_share(head_.row_importance);
  gradient_ = std::move(head_.gradient);
  if (is_tied(graph_)) return {};
  const TensorMoments moments{graph_.name(graph_.layout().head), &head_.activation.sum, &head_.fisher.sum,
                              normalized_importance(head_.row_importance), head_.fisher.effective.count()};
  return write_moments(path(kHeadFile), hash_, std::span(&moments, 1));
}

/// Replaces the piece's gradient by the one in front of the block.
void Run::backward_piece(uint32_t layer, const LayerWeights<float>& weights, const Piece& piece, uint32_t worker) {
  const LayerGraph& graph = graph_.layer(layer);
  LayerPass<float>& pass = passes_[worker];
  RowMatrix<float>& in = inputs_[worker];
  in = hidden_.middleRows(piece.begin, piece.tokens);
  const RowMatrix<float> dy = gradient_.middleRows(piece.begin, piece.tokens);
  RowMatrix<float> dx;
  pass.forward(graph, weights, in, piece.lengths);
  pass.backward(graph, weights, dy, &dx, nullptr);
  gradient_.middleRows(piece.begin, piece.tokens) = dx;
}

Status Run::backward(uint32_t layer) {
  const std::string file = path(layer_file(layer));
  NWC_TRY(store_.pop(&hidden_));
  const LayerGraph& graph = graph_.layer(layer);
  NWC_ASSIGN_OR_RETURN(const LayerWeights<float> weights, graph_.load_layer(layer));
  std::optional<BlockStatistics> statistics;  // of a layer whose file an earlier run left, only the gradient is needed
  if (!has_moments(file, hash_)) statistics.emplace(graph, options_.activations);
  const uint64_t token_bytes = BlockStatistics::token_bytes(graph);

  for (size_t first = 0, last = 0; first < pieces_.size(); first = last) {
    Eigen::Index count = 0;
    std::vector<Eigen::Index> at;
    do {
      at.push_back(count);
      count += pieces_[last++].tokens;
    } while (last < pieces_.size() && static_cast<uint64_t>(count + pieces_[last].tokens) * token_bytes <= kRoundBytes);
    if (statistics) statistics->begin_round(count, last - first);
    parallel_for(runner_, static_cast<uint32_t>(last - first), [&](uint32_t i, uint32_t worker) {
      const Piece& piece = pieces_[first + i];
      backward_piece(layer, weights, piece, worker);
      if (statistics) statistics->take(i, at[i], piece.lengths, passes_[worker]);
    });
    if (statistics) statistics->end_round(runner_);
    NWC_TRY(step(3 * static_cast<uint64_t>(count)));
  }
  if (!statistics) return {};
  std::vector<std::string> names;
  for (size_t m = 0; m < graph.matrices().size(); ++m) names.push_back(graph_.matrix_name(layer, m));
  return write_moments(file, hash_, statistics->finish(names, num_tokens()));
}

/// A row v of the embedding is the input wherever v stands in the text: an error d of it costs
/// 1/2 * freq_v * d E[g g^T] d^T. Seen from the whole matrix, H = E[g g^T] / vocab and row_importance ~ freq_v. A tied
/// head adds its own form; the sum of the two is brought back to one product by weighting rows with the traces.
Status Run::embedding() {
  if (model_.ends.encoder.embedding_norm) {  // what was added up lies in front of it
    std::vector<uint32_t> lengths;
    for (const Piece& piece : pieces_) lengths.insert(lengths.end(), piece.lengths.begin(), piece.lengths.end());
    NWC_ASSIGN_OR_RETURN(const RowMatrix<float> sums, embed_sequences(graph_, tokens_, lengths));
    NWC_ASSIGN_OR_RETURN(const HeadWeights<float> norm, graph_.load_embedding_norm());
    RowMatrix<float> before;
    head_norm_backward(norm, sums, gradient_, &before);
    gradient_ = std::move(before);
  }
  SecondMoment moment;
  moment.reset(gradient_.cols());
  moment.x = &gradient_;
  SecondMoment* const only[] = {&moment};
  add_moments(only, num_tokens(), runner_);
  moment.finish(static_cast<double>(num_tokens()));
  EffectiveTokens effective;
  for (Eigen::Index t = 0; t < num_tokens(); ++t) effective.add(double{gradient_.row(t).squaredNorm()});
  if (graph_.has_positions()) NWC_TRY(positions(moment.sum, effective.count()));
  const float scale = model_.ends.embedding_scale;
  if (scale != 1) moment.sum *= scale * scale;
  moment.sum /= static_cast<float>(model_.vocab_size);

  std::vector<double> importance = token_frequencies(tokens_, model_.vocab_size);
  add_foreign_share(importance);
  const std::string& name = graph_.name(graph_.layout().embedding);
  if (!is_tied(graph_)) {
    const TensorMoments out{name, nullptr, &moment.sum, normalized_importance(importance), effective.count()};
    return write_moments(path(kEmbeddingFile), hash_, std::span(&out, 1));
  }
  const double trace = double{moment.sum.trace()}, head_trace = double{head_.fisher.sum.trace()};
  const std::vector<float> head_importance = normalized_importance(head_.row_importance);
  for (size_t v = 0; v < importance.size(); ++v) {
    importance[v] = importance[v] * trace + double{head_importance[v]} * head_trace;
  }
  moment.sum += head_.fisher.sum;
  EffectiveTokens both;  // a token's weight is the sum of those on both sides
  for (Eigen::Index t = 0; t < num_tokens(); ++t) {
    const double own = double{gradient_.row(t).squaredNorm()} / effective.sum;
    both.add(own * trace + double{head_.omega[static_cast<size_t>(t)]} / head_.fisher.effective.sum * head_trace);
  }
  const TensorMoments out{name, &head_.activation.sum, &moment.sum, normalized_importance(importance), both.count()};
  return write_moments(path(kEmbeddingFile), hash_, std::span(&out, 1));
}

/// The same of learned positions. Every position counts alike: a text is cut into short sequences here, and that later
/// positions do not occur in it says nothing about texts that the model will read.
Status Run::positions(const RowMatrix<float>& moment, double effective_tokens) {
  const RowMatrix<float> fisher = moment / static_cast<float>(model_.ends.position_rows);
  const TensorMoments out{graph_.name(graph_.layout().positions), nullptr, &fisher,
                          std::vector<float>(model_.ends.position_rows, 1.0f), effective_tokens};
  return write_moments(path(kPositionsFile), hash_, std::span(&out, 1));
}

}  // namespace

std::vector<CalibratedTensor> calibrated_tensors(const ModelGraph& graph, bool activations) {
  const ModelRecord& model = graph.model();
  std::vector<CalibratedTensor> tensors;
  const bool tied = is_tied(graph);
  const std::string& embedding = graph.name(graph.layout().embedding);
  tensors.push_back({embedding, kEmbeddingFile, tied ? embedding : "", model.vocab_size, model.hidden_size});
  if (graph.has_positions()) {
    tensors.push_back(
        {graph.name(graph.layout().positions), kPositionsFile, "", model.ends.position_rows, model.hidden_size});
  }
  for (uint32_t l = 0; l < model.num_layers; ++l) {
    const std::vector<LayerMatrix>& matrices = graph.layer(l).matrices();
    for (size_t m = 0; m < matrices.size(); ++m) {
      tensors.push_back({graph.matrix_name(l, m), layer_file(l),
                         activations ? graph.matrix_name(l, matrices[m].input_owner) : "",
                         static_cast<uint64_t>(matrices[m].rows), static_cast<uint64_t>(matrices[m].cols)});
    }
  }
  if (graph.layout().separate_head()) {
    const std::string& head = graph.name(graph.layout().head);
    tensors.push_back({head, kHeadFile, head, model.vocab_size, model.hidden_size});
  }
  return tensors;
}

Status run_calibration(const ModelGraph& graph, std::span<const uint32_t> tokens, const CalibrationIndex& index,
                       const CalibrationOptions& options, const std::string& folder, Runner& runner,
                       const Progress& progress, const Logger& log) {
  Eigen::Index widest = graph.model().hidden_size;
  for (uint32_t l = 0; l < graph.num_layers(); ++l) {
    for (const LayerMatrix& m : graph.layer(l).matrices()) widest = std::max(widest, m.cols);
  }
  if (eigen_index(tokens.size()) < 2 * widest) {
    log.log(LogLevel::kWarning, "calibration: " + std::to_string(tokens.size()) + " tokens are few for layers of " +
                                    std::to_string(widest) + " inputs; at least " + std::to_string(2 * widest) +
                                    " determine their statistics");
  }
  return Run(graph, tokens, index, options, folder, runner, progress).run();
}

}  // namespace nwc
