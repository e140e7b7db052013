#include "trainer/llm/feature_stream.h"

#include <algorithm>

#include "trainer/llm/layer_pass.h"

namespace nwc {

void forward_layer(const LayerGraph& graph, const LayerWeights<float>& weights, std::span<const uint32_t> lengths,
                   RowMatrix<float>* hidden, Runner& runner) {
  std::vector<Eigen::Index> begin;
  Eigen::Index at = 0;
  for (const uint32_t length : lengths) {
    begin.push_back(at);
    at += length;
  }
  std::vector<LayerPass<float>> passes(runner.num_workers());
  std::vector<RowMatrix<float>> in(passes.size());
  parallel_for(runner, static_cast<uint32_t>(lengths.size()), [&](uint32_t i, uint32_t worker) {
    auto rows = hidden->middleRows(begin[i], lengths[i]);
    in[worker] = rows;
    rows = passes[worker].forward(graph, weights, in[worker], lengths.subspan(i, 1));
  });
}

std::vector<uint32_t> cut_sequences(size_t tokens, uint32_t context) {
  std::vector<uint32_t> lengths;
  for (size_t at = 0; at < tokens; at += context) {
    lengths.push_back(static_cast<uint32_t>(std::min<size_t>(context, tokens - at)));
  }
  return lengths;
}

namespace {

Result<RowMatrix<float>> add_embeddings(const ModelGraph& graph, const RowMatrix<float>& embedding,
                                        const RowMatrix<float>& positions, std::span<const uint32_t> tokens,
                                        std::span<const uint32_t> lengths) {
  NWC_ASSIGN_OR_RETURN(const RowVector<float> type, graph.load_token_type());
  RowMatrix<float> out;
  embed_tokens(graph.model().ends, embedding, positions, tokens, lengths, &out);
  if (type.size() != 0) out.rowwise() += type;
  return out;
}

Result<RowMatrix<float>> norm_embeddings(const ModelGraph& graph, const RowMatrix<float>& sums) {
  NWC_ASSIGN_OR_RETURN(const HeadWeights<float> norm, graph.load_embedding_norm());
  RowMatrix<float> out;
  head_norm(norm, sums, &out);
  return out;
}

}  // namespace

Result<RowMatrix<float>> front_states(const ModelGraph& graph, const RowMatrix<float>& embedding,
                                      const RowMatrix<float>& positions, std::span<const uint32_t> tokens,
                                      std::span<const uint32_t> lengths) {
  NWC_ASSIGN_OR_RETURN(const RowMatrix<float> sums, add_embeddings(graph, embedding, positions, tokens, lengths));
  return norm_embeddings(graph, sums);
}

Result<RowMatrix<float>> embed_sequences(const ModelGraph& graph, std::span<const uint32_t> tokens,
                                         std::span<const uint32_t> lengths) {
  if (tokens.empty()) return invalid_argument("features need tokens");
  for (const uint32_t token : tokens) {
    if (token < graph.model().vocab_size) continue;
    return invalid_argument("token " + std::to_string(token) + " is out of range: the vocabulary has " +
                            std::to_string(graph.model().vocab_size));
  }
  NWC_ASSIGN_OR_RETURN(const RowMatrix<float> table, graph.load_embedding());
  NWC_ASSIGN_OR_RETURN(const RowMatrix<float> positions, graph.load_positions());
  return add_embeddings(graph, table, positions, tokens, lengths);
}

Result<FeatureStream> FeatureStream::open(const ModelGraph& graph, std::span<const uint32_t> tokens) {
  FeatureStream stream(graph, cut_sequences(tokens.size(), graph.context()));
  NWC_ASSIGN_OR_RETURN(const RowMatrix<float> sums, embed_sequences(graph, tokens, stream.lengths_));
  NWC_ASSIGN_OR_RETURN(stream.outputs_, norm_embeddings(graph, sums));
  return stream;
}

Result<FeatureStream> FeatureStream::open(const ModelGraph& graph, const RowMatrix<float>& states) {
  FeatureStream stream(graph, cut_sequences(static_cast<size_t>(states.rows()), graph.context()));
  NWC_ASSIGN_OR_RETURN(stream.outputs_, norm_embeddings(graph, states));
  return stream;
}

Status FeatureStream::advance(Runner& runner) {
  if (taken_ == graph_->num_layers()) return invalid_argument("the model has no further block");
  NWC_ASSIGN_OR_RETURN(weights_, graph_->load_layer(taken_));
  inputs_ = std::move(outputs_);
  outputs_ = inputs_;
  forward_layer(graph_->layer(taken_), weights_, lengths_, &outputs_, runner);
  ++taken_;
  return {};
}

}  // namespace nwc
