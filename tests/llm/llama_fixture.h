// A whole model made of the trainer's blocks, for tests: embedding, blocks, final norm, head.
#pragma once

#include <gtest/gtest.h>

#include "trainer/llm/llama_weights.h"
#include "trainer/llm/rms_norm.h"

namespace nwc::test {

struct LlamaModel {
  ModelRecord record;
  RowMatrix<float> embedding, head;  ///< [vocab][hidden]
  RowVector<float> norm;
  std::vector<BlockWeights<float>> blocks;
};

inline LlamaModel load_llama(const ModelSource& source) {
  LlamaModel model;
  model.record = *source.model();
  const LlamaShape shape(model.record);
  const auto get = [](auto result) {
    EXPECT_TRUE(result.ok()) << result.status().message();
    return std::move(result).value();
  };
  model.embedding = get(load_matrix(source, kEmbeddingName, model.record.vocab_size, shape.hidden));
  model.head = model.record.tied_embeddings
                   ? model.embedding
                   : get(load_matrix(source, kHeadName, model.record.vocab_size, shape.hidden));
  model.norm = get(load_vector(source, kFinalNormName, shape.hidden));
  for (uint32_t l = 0; l < model.record.num_layers; ++l) model.blocks.push_back(get(load_block(source, shape, l)));
  return model;
}

inline RowMatrix<float> embed(const LlamaModel& model, std::span<const uint32_t> tokens) {
  RowMatrix<float> x(eigen_index(tokens.size()), model.embedding.cols());
  for (size_t t = 0; t < tokens.size(); ++t) x.row(eigen_index(t)) = model.embedding.row(tokens[t]);
  return x;
}

/// Hidden states behind blocks first, first + 1, ..., from those in front of block `first`; sequences of `context`.
inline RowMatrix<float> run_blocks(const LlamaModel& model, RowMatrix<float> x, size_t first, uint32_t context) {
  LlamaBlock<float> block(LlamaShape(model.record), context);
  std::vector<uint32_t> lengths;
  for (Eigen::Index at = 0; at < x.rows(); at += context) {
    lengths.push_back(static_cast<uint32_t>(std::min<Eigen::Index>(context, x.rows() - at)));
  }
  for (size_t l = first; l < model.blocks.size(); ++l) x = RowMatrix<float>(block.forward(model.blocks[l], x, lengths));
  return x;
}

inline RowMatrix<float> logits(const LlamaModel& model, const RowMatrix<float>& hidden) {
  RowMatrix<float> normed;
  RowVector<float> inverse;
  rms_norm(hidden, model.norm, model.record.block().norm_eps, &normed, &inverse);
  return normed * model.head.transpose();
}

}  // namespace nwc::test
