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
#include "trainer/calib/pieces.h"
#include "trainer/calib/row_shares.h"
#include "trainer/llm/feature_stream.h"
#include "trainer/nn/random.h"
#include "trainer/parallel/message.h"

namespace nwc {
namespace {

/// Inputs of a block's layers that are in memory before they are multiplied into the moments.
constexpr uint64_t kRoundBytes = uint64_t{512} << 20;

std::string layer_file(uint32_t layer) { return "layer-" + std::to_string(layer) + ".safetensors"; }
constexpr const char* kEmbeddingFile = "embedding.safetensors";
constexpr const char* kPositionsFile = "positions.safetensors";
constexpr const char* kHeadFile = "head.safetensors";
/// A block backward takes as long as so many of its forward passes, with its moments (doc/measurements.md, "Size").
constexpr uint64_t kBackwardPasses = 4;
constexpr uint64_t kDirectionStream = 0x7a;  // names the random numbers' purpose

/// Is the head the embedding? An encoder has none.
bool is_tied(const ModelGraph& graph) { return graph.layout().has_head() && !graph.layout().separate_head(); }

/// Pieces that a rank takes in a round, so that what they leave behind fits kRoundBytes.
size_t pieces_of_round(const ModelGraph& graph, std::span<const Piece> all) {
  uint64_t token_bytes = 1, tokens = 1;
  for (uint32_t l = 0; l < graph.num_layers(); ++l)
    token_bytes = std::max(token_bytes, BlockStatistics::token_bytes(graph.layer(l)));
  for (const Piece& piece : all) tokens = std::max(tokens, static_cast<uint64_t>(piece.tokens));
  const uint64_t piece_bytes = std::max(token_bytes * tokens, head_piece_bytes(graph.model().vocab_size));
  return static_cast<size_t>(std::max<uint64_t>(1, kRoundBytes / piece_bytes));
}

class Run {
 public:
  Run(const ModelGraph& graph, std::span<const uint32_t> tokens, const CalibrationInput::States& states,
      const CalibrationIndex& index, const CalibrationOptions& options, const std::string& folder, Ranks& ranks,
      Runner& runner, const Progress& progress)
      : graph_(graph),
        model_(graph.model()),
        tokens_(tokens),
        states_(states),
        hash_(index.hash),
        options_(options),
        folder_(folder),
        ranks_(ranks),
        runner_(runner),
        progress_(progress),
        pieces_(cut_pieces(tokens.size(), graph.context())),
        own_(deal_pieces(pieces_, ranks.rank(), ranks.size(), pieces_of_round(graph, pieces_))),
        passes_(runner.num_workers()),
        inputs_(runner.num_workers()),
        store_(folder, ranks.rank(), options.memory_bytes) {
    for (const Piece& piece : own_.pieces) {
      const auto of_piece = tokens_.subspan(static_cast<size_t>(piece.begin), static_cast<size_t>(piece.tokens));
      own_tokens_.insert(own_tokens_.end(), of_piece.begin(), of_piece.end());
    }
  }

  Status run() {
    NWC_TRY(step(0));
    NWC_TRY(forward());
    NWC_TRY(head());
    for (uint32_t l = model_.num_layers; l-- > 0;) NWC_TRY(backward(l));
    return embedding();
  }

 private:
  Eigen::Index num_tokens() const { return eigen_index(tokens_.size()); }
  Eigen::Index num_own_tokens() const { return eigen_index(own_tokens_.size()); }
  std::string path(const std::string& file) const { return folder_ + "/" + file; }
  Status write(const std::string& file, std::span<const TensorMoments> moments) const;
  template <typename T>
  Result<std::vector<T>> gather_by_token(const std::vector<T>& values);
  uint64_t head_passes() const;
  Status step(uint64_t tokens);
  Result<FeatureStream> open_stream() const;
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
  const CalibrationInput::States& states_;
  const std::string hash_;
  const CalibrationOptions& options_;
  const std::string folder_;
  Ranks& ranks_;
  Runner& runner_;
  const Progress& progress_;
  uint64_t done_ = 0;

  const std::vector<Piece> pieces_;  ///< of the whole text
  const DealtPieces own_;            ///< of this rank, as are all states and gradients below
  std::vector<uint32_t> own_tokens_;
  std::vector<LayerPass<float>> passes_;  ///< one per worker
  std::vector<RowMatrix<float>> inputs_;  ///< that passes_ refer to; matrices without a norm in front read them
  HiddenStore store_;
  RowMatrix<float> hidden_;    ///< [tokens][hidden] at the boundary that the passes have reached
  RowMatrix<float> gradient_;  ///< [tokens][hidden] there, on the way back
  HeadStatistics head_;        ///< of a tied head, for embedding()
};

Status Run::write(const std::string& file, std::span<const TensorMoments> moments) const {
  return ranks_.first() ? write_moments(path(file), hash_, moments) : Status();
}

/// Returns, on rank 0, the values of all tokens in the text's order. values: of this rank's tokens
template <typename T>
Result<std::vector<T>> Run::gather_by_token(const std::vector<T>& values) {
  ByteWriter writer;
  put(&writer, values);
  NWC_ASSIGN_OR_RETURN(const std::vector<std::vector<uint8_t>> all, gather(ranks_, writer.take()));
  std::vector<T> out(tokens_.size());
  for (uint32_t rank = 0; rank < all.size(); ++rank) {
    ByteReader reader(all[rank]);
    std::vector<T> of_rank;
    NWC_TRY(get(&reader, &of_rank));
    const DealtPieces dealt = deal_pieces(pieces_, rank, ranks_.size(), pieces_of_round(graph_, pieces_));
    for (const Piece& piece : dealt.pieces)
      std::copy_n(of_rank.begin() + piece.at, piece.tokens, out.begin() + piece.begin);
  }
  return out;
}

/// Of the head, in forward passes of a block.
uint64_t Run::head_passes() const {
  if (model_.is_encoder()) return 1;
  const auto block = static_cast<uint64_t>(graph_.layer(0).elements_per_token());
  return std::max<uint64_t>(1, kHeadPasses * model_.vocab_size * model_.hidden_size / std::max<uint64_t>(1, block));
}

/// tokens: times the forward passes of a block that they went through, or the time of as many.
Status Run::step(uint64_t tokens) {
  done_ += tokens;
  const uint64_t total = own_tokens_.size() * (uint64_t{model_.num_layers} * (1 + kBackwardPasses) + head_passes());
  if (progress_.report(std::min(done_, total), total)) return {};
  return Status(StatusCode::kCancelled,
                "the calibration was cancelled; the layers that are done are kept in " + folder_);
}

Result<FeatureStream> Run::open_stream() const {
  if (!states_) return FeatureStream::open(graph_, own_tokens_);
  std::vector<uint32_t> images;
  for (size_t at = 0; at < own_tokens_.size(); at += graph_.context()) images.push_back(own_tokens_[at]);
  NWC_ASSIGN_OR_RETURN(const std::vector<float> states, states_(images));
  const Eigen::Index hidden = model_.hidden_size;
  if (eigen_index(states.size()) != num_own_tokens() * hidden)
    return invalid_argument("calibration: the images' states are not of their size");
  return FeatureStream::open(graph_, RowMatrix<float>(ConstMatrixMap<float>(states.data(), num_own_tokens(), hidden)));
}

Status Run::forward() {
  if (own_tokens_.empty()) {  // more ranks than pieces
    hidden_.resize(0, model_.hidden_size);
    return {};
  }
  NWC_ASSIGN_OR_RETURN(FeatureStream stream, open_stream());
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    NWC_TRY(stream.advance(runner_));
    NWC_TRY(store_.push(stream.inputs()));
    NWC_TRY(step(own_tokens_.size()));
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
    Eigen::Index at = 0;
    uint32_t length = 0;
    uint64_t number = 0;  ///< in the text
  };
  std::vector<Sequence> sequences;
  for (const Piece& piece : own_.pieces) {
    Eigen::Index at = piece.at;
    uint64_t number = piece.sequence;
    for (const uint32_t length : piece.lengths) {
      sequences.push_back({at, length, number++});
      at += length;
    }
  }
  std::atomic<bool> finite{true};
  parallel_for(runner_, static_cast<uint32_t>(sequences.size()), [&](uint32_t i, uint32_t) {
    const auto [begin, length, number] = sequences[i];
    const RowMatrix<float> hidden = hidden_.middleRows(begin, length);
    RowMatrix<float> states, d_states, d_hidden;
    head_norm(norm, hidden, &states);
    RowVector<float> direction(model_.embedding_size());
    Random random({options_.seed, kDirectionStream, number});
    for (float& v : direction) v = static_cast<float>(random.normal());
    const std::span<const uint32_t> tokens = std::span(own_tokens_).subspan(static_cast<size_t>(begin), length);
    pool_backward(weights, states, states_ ? std::span<const uint32_t>() : tokens, direction, &d_states);
    head_norm_backward(norm, hidden, d_states, &d_hidden);
    if (!d_hidden.allFinite()) finite = false;
    gradient_.middleRows(begin, length) = d_hidden;
  });
  if (!finite) return corrupt("the model's embeddings are not finite: its weights or its description must be wrong");
  return step(head_passes() * own_tokens_.size());
}

Status Run::head() {
  if (model_.is_encoder()) return pooling();
  NWC_ASSIGN_OR_RETURN(const HeadWeights<float> weights, graph_.load_head());
  NWC_ASSIGN_OR_RETURN(head_, head_statistics(weights, hidden_, own_, options_.seed, ranks_, runner_,
                                              [&](uint64_t tokens) { return step(head_passes() * tokens); }));
  gradient_ = std::move(head_.gradient);
  if (!ranks_.first()) return {};
  head_.finish(static_cast<double>(num_tokens()));
  add_foreign_share(head_.row_importance);
  if (is_tied(graph_)) return {};
  const TensorMoments moments{graph_.name(graph_.layout().head), &head_.activation.sum, &head_.fisher.sum,
                              normalized_importance(head_.row_importance), head_.fisher.effective.count()};
  return write(kHeadFile, std::span(&moments, 1));
}

/// Replaces the piece's gradient by the one in front of the block.
void Run::backward_piece(uint32_t layer, const LayerWeights<float>& weights, const Piece& piece, uint32_t worker) {
  const LayerGraph& graph = graph_.layer(layer);
  LayerPass<float>& pass = passes_[worker];
  RowMatrix<float>& in = inputs_[worker];
  in = hidden_.middleRows(piece.at, piece.tokens);
  const RowMatrix<float> dy = gradient_.middleRows(piece.at, piece.tokens);
  RowMatrix<float> dx;
  pass.forward(graph, weights, in, piece.lengths);
  pass.backward(graph, weights, dy, &dx, nullptr);
  gradient_.middleRows(piece.at, piece.tokens) = dx;
}

Status Run::backward(uint32_t layer) {
  bool there = ranks_.first() && has_moments(path(layer_file(layer)), hash_);
  NWC_TRY(share(ranks_, &there));
  if (!own_tokens_.empty()) NWC_TRY(store_.pop(&hidden_));
  const LayerGraph& graph = graph_.layer(layer);
  NWC_ASSIGN_OR_RETURN(const LayerWeights<float> weights, graph_.load_layer(layer));
  std::optional<BlockStatistics> statistics;  // of a layer whose file an earlier run left, only the gradient is needed
  if (!there) statistics.emplace(graph, options_.activations);

  for (size_t round = 0; round < own_.rounds(); ++round) {
    const std::span<const Piece> pieces = own_.round(round);
    Eigen::Index count = 0;
    for (const Piece& piece : pieces) count += piece.tokens;
    if (statistics) statistics->begin_round(count, pieces.size());
    parallel_for(runner_, static_cast<uint32_t>(pieces.size()), [&](uint32_t i, uint32_t worker) {
      const Piece& piece = pieces[i];
      backward_piece(layer, weights, piece, worker);
      if (statistics) statistics->take(i, piece.at - pieces[0].at, piece.lengths, passes_[worker]);
    });
    if (statistics) NWC_TRY(statistics->end_round(ranks_, runner_));
    NWC_TRY(step(kBackwardPasses * static_cast<uint64_t>(count)));
  }
  if (!statistics || !ranks_.first()) return {};
  std::vector<std::string> names;
  for (size_t m = 0; m < graph.matrices().size(); ++m) names.push_back(graph_.matrix_name(layer, m));
  return write(layer_file(layer), statistics->finish(names, num_tokens()));
}

/// A row v of the embedding is the input wherever v stands in the text: an error d of it costs
/// 1/2 * freq_v * d E[g g^T] d^T. Seen from the whole matrix, H = E[g g^T] / vocab and row_importance ~ freq_v. A tied
/// head adds its own form; the sum of the two is brought back to one product by weighting rows with the traces.
Status Run::embedding() {
  if (states_) return {};                                            // of patches, which are not coded
  if (model_.ends.encoder.embedding_norm && !own_tokens_.empty()) {  // what was added up lies in front of it
    std::vector<uint32_t> lengths;
    for (const Piece& piece : own_.pieces) lengths.insert(lengths.end(), piece.lengths.begin(), piece.lengths.end());
    NWC_ASSIGN_OR_RETURN(const RowMatrix<float> sums, embed_sequences(graph_, own_tokens_, lengths));
    NWC_ASSIGN_OR_RETURN(const HeadWeights<float> norm, graph_.load_embedding_norm());
    RowMatrix<float> before;
    head_norm_backward(norm, sums, gradient_, &before);
    gradient_ = std::move(before);
  }
  SecondMoment moment;
  moment.reset(gradient_.cols());
  SecondMoment* const only[] = {&moment};
  for (size_t round = 0; round < own_.rounds(); ++round) {
    moment.parts.clear();
    for (const Piece& piece : own_.round(round)) moment.parts.push_back({&gradient_, piece.at, piece.tokens, nullptr});
    NWC_TRY(add_moments(only, ranks_, runner_));
  }
  std::vector<double> own_squares;
  RowVector<float> aligned;  // else the order of additions would depend on where the row lies
  for (Eigen::Index t = 0; t < num_own_tokens(); ++t) {
    aligned = gradient_.row(t);
    own_squares.push_back(double{aligned.squaredNorm()});
  }
  NWC_ASSIGN_OR_RETURN(const std::vector<double> squares, gather_by_token(own_squares));
  std::vector<float> omega;
  if (is_tied(graph_)) {
    NWC_ASSIGN_OR_RETURN(omega, gather_by_token(head_.omega));
  }
  if (!ranks_.first()) return {};
  moment.finish(static_cast<double>(num_tokens()));
  EffectiveTokens effective;
  for (const double square : squares) effective.add(square);
  if (graph_.has_positions()) NWC_TRY(positions(moment.sum, effective.count()));
  const float scale = model_.ends.embedding_scale;
  if (scale != 1) moment.sum *= scale * scale;
  moment.sum /= static_cast<float>(model_.vocab_size);

  std::vector<double> importance = token_frequencies(tokens_, model_.vocab_size);
  add_foreign_share(importance);
  const std::string& name = graph_.name(graph_.layout().embedding);
  if (!is_tied(graph_)) {
    const TensorMoments out{name, nullptr, &moment.sum, normalized_importance(importance), effective.count()};
    return write(kEmbeddingFile, std::span(&out, 1));
  }
  const double trace = double{moment.sum.trace()}, head_trace = double{head_.fisher.sum.trace()};
  const std::vector<float> head_importance = normalized_importance(head_.row_importance);
  for (size_t v = 0; v < importance.size(); ++v) {
    importance[v] = importance[v] * trace + double{head_importance[v]} * head_trace;
  }
  moment.sum += head_.fisher.sum;
  EffectiveTokens both;  // a token's weight is the sum of those on both sides
  for (size_t t = 0; t < squares.size(); ++t) {
    const double own = squares[t] / effective.sum;
    both.add(own * trace + double{omega[t]} / head_.fisher.effective.sum * head_trace);
  }
  const TensorMoments out{name, &head_.activation.sum, &moment.sum, normalized_importance(importance), both.count()};
  return write(kEmbeddingFile, std::span(&out, 1));
}

/// The same of learned positions. Every position counts alike: a text is cut into short sequences here, and that later
/// positions do not occur in it says nothing about texts that the model will read.
Status Run::positions(const RowMatrix<float>& moment, double effective_tokens) {
  const RowMatrix<float> fisher = moment / static_cast<float>(model_.ends.position_rows);
  const TensorMoments out{graph_.name(graph_.layout().positions), nullptr, &fisher,
                          std::vector<float>(model_.ends.position_rows, 1.0f), effective_tokens};
  return write(kPositionsFile, std::span(&out, 1));
}

}  // namespace

std::vector<CalibratedTensor> calibrated_tensors(const ModelGraph& graph, bool activations) {
  const ModelRecord& model = graph.model();
  std::vector<CalibratedTensor> tensors;
  const bool of_images = model.ends.encoder.of_images();
  if (!of_images) {
    const std::string& embedding = graph.name(graph.layout().embedding);
    tensors.push_back(
        {embedding, kEmbeddingFile, is_tied(graph) ? embedding : "", model.vocab_size, model.hidden_size});
  }
  if (graph.has_positions() && !of_images) {
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

Status run_calibration(const ModelGraph& graph, std::span<const uint32_t> tokens,
                       const CalibrationInput::States& states, const CalibrationIndex& index,
                       const CalibrationOptions& options, const std::string& folder, Ranks& ranks, Runner& runner,
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
  return Run(graph, tokens, states, index, options, folder, ranks, runner, progress).run();
}

}  // namespace nwc
