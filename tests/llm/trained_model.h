// A whole model made of the trainer's layers, for tests: embedding, layers, final norm, head.
#pragma once

#include <gtest/gtest.h>

#include "trainer/llm/feature_stream.h"
#include "trainer/llm/layer_pass.h"

namespace nwc::test {

struct TrainedModel {
  ModelGraph graph;
  RowMatrix<float> embedding, positions;
  HeadWeights<float> head;
  std::vector<LayerWeights<float>> layers;

  uint32_t vocab_size() const { return graph.model().vocab_size; }
};

/// context: tokens per sequence. The source must outlive the model.
inline TrainedModel load_trained(const ModelSource& source, uint32_t context) {
  const auto get = [](auto result) {
    EXPECT_TRUE(result.ok()) << result.status().message();
    return std::move(result).value();
  };
  TrainedModel model{get(ModelGraph::open(source, context)), {}, {}, {}, {}};
  model.embedding = get(model.graph.load_embedding());
  model.positions = get(model.graph.load_positions());
  model.head = get(model.graph.load_head());
  for (uint32_t l = 0; l < model.graph.num_layers(); ++l) model.layers.push_back(get(model.graph.load_layer(l)));
  return model;
}

inline RowMatrix<float> embed(const TrainedModel& model, std::span<const uint32_t> tokens) {
  RowMatrix<float> x;
  embed_tokens(model.graph.model().ends, model.embedding, model.positions, tokens,
               cut_sequences(tokens.size(), model.graph.context()), &x);
  return x;
}

/// Hidden states behind the layers first to end - 1, from those in front of layer `first`.
inline RowMatrix<float> run_layers(const TrainedModel& model, RowMatrix<float> x, uint32_t first, uint32_t end) {
  LayerPass<float> pass;
  const std::vector<uint32_t> lengths = cut_sequences(static_cast<size_t>(x.rows()), model.graph.context());
  for (uint32_t l = first; l < end; ++l)
    x = RowMatrix<float>(pass.forward(model.graph.layer(l), model.layers[l], x, lengths));
  return x;
}
inline RowMatrix<float> run_layers(const TrainedModel& model, const RowMatrix<float>& x, uint32_t first = 0) {
  return run_layers(model, x, first, model.graph.num_layers());
}

inline RowMatrix<float> logits(const TrainedModel& model, const RowMatrix<float>& hidden) {
  RowMatrix<float> normed, out;
  head_norm(model.head, hidden, &normed);
  head_logits(model.head, normed, &out);
  return out;
}

/// The matrix of a layer with this role.
inline size_t matrix_of(const LayerGraph& graph, Role role) {
  const std::vector<LayerMatrix>& all = graph.matrices();
  const auto found = std::find_if(all.begin(), all.end(), [&](const LayerMatrix& m) { return m.role == role; });
  EXPECT_NE(found, all.end()) << role_name(role);
  return static_cast<size_t>(found - all.begin());
}

}  // namespace nwc::test
