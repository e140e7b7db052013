#include "trainer/llm/feature_stream.h"

#include <algorithm>

namespace nwc {

void forward_block(const LlamaShape& shape, const BlockWeights<float>& weights, std::span<const uint32_t> lengths,
                   RowMatrix<float>* hidden, Runner& runner) {
  if (lengths.empty()) return;
  std::vector<Eigen::Index> begin;
  Eigen::Index at = 0;
  for (const uint32_t length : lengths) {
    begin.push_back(at);
    at += length;
  }
  const Eigen::Index longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<LlamaBlock<float>> blocks(runner.num_workers(), LlamaBlock<float>(shape, longest));
  std::vector<RowMatrix<float>> in(blocks.size());
  parallel_for(runner, static_cast<uint32_t>(lengths.size()), [&](uint32_t i, uint32_t worker) {
    auto rows = hidden->middleRows(begin[i], lengths[i]);
    in[worker] = rows;
    rows = blocks[worker].forward(weights, in[worker], lengths.subspan(i, 1));
  });
}

std::vector<uint32_t> cut_sequences(size_t tokens, uint32_t context) {
  std::vector<uint32_t> lengths;
  for (size_t at = 0; at < tokens; at += context) {
    lengths.push_back(static_cast<uint32_t>(std::min<size_t>(context, tokens - at)));
  }
  return lengths;
}

FeatureStream::FeatureStream(const ModelSource& source, std::vector<uint32_t> lengths)
    : source_(&source), shape_(*source.model()), lengths_(std::move(lengths)) {}

Result<FeatureStream> FeatureStream::open(const ModelSource& source, std::span<const uint32_t> tokens,
                                          uint32_t context) {
  if (!source.model()) return unsupported("the features of a model need its description");
  const ModelRecord& model = *source.model();
  NWC_TRY(validate(model));
  if (tokens.empty() || context == 0 || context > model.max_positions) {
    return invalid_argument("features need tokens, in sequences of 1 to " + std::to_string(model.max_positions));
  }
  FeatureStream stream(source, cut_sequences(tokens.size(), context));
  NWC_ASSIGN_OR_RETURN(const RowMatrix<float> table,
                       load_matrix(source, kEmbeddingName, model.vocab_size, model.hidden_size));
  stream.outputs_.resize(eigen_index(tokens.size()), stream.shape_.hidden);
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t] >= model.vocab_size) {
      return invalid_argument("token " + std::to_string(tokens[t]) + " is out of range: the vocabulary has " +
                              std::to_string(model.vocab_size));
    }
    stream.outputs_.row(eigen_index(t)) = table.row(static_cast<Eigen::Index>(tokens[t]));
  }
  return stream;
}

Status FeatureStream::advance(Runner& runner) {
  if (taken_ == source_->model()->num_layers) return invalid_argument("the model has no further block");
  NWC_ASSIGN_OR_RETURN(weights_, load_block(*source_, shape_, taken_));
  inputs_ = std::move(outputs_);
  outputs_ = inputs_;
  forward_block(shape_, weights_, lengths_, &outputs_, runner);
  ++taken_;
  return {};
}

}  // namespace nwc
