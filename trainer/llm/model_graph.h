// A model source as training sees it: where its tensors are, a graph for each kind of layer, and the weights, read
// layer by layer.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "trainer/data/model_source.h"
#include "trainer/llm/layer_graph.h"
#include "trainer/llm/model_ends.h"
#include "trainer/llm/pooling.h"

namespace nwc {

class ModelGraph {
 public:
  /// context: tokens of the longest sequence. The source must outlive the graph.
  /// errors: kUnsupported (no model description; what no session runs either: it is named), kInvalidArgument (context
  /// out
  ///         of range), those of resolve_source_layout
  static Result<ModelGraph> open(const ModelSource& source, uint32_t context);

  const ModelSource& source() const { return *source_; }
  const ModelRecord& model() const { return layout_.model; }
  const ModelLayout& layout() const { return layout_; }
  uint32_t context() const { return context_; }
  uint32_t num_layers() const { return layout_.model.num_layers; }
  const LayerGraph& layer(uint32_t l) const { return kinds_[layout_.layers[l].kind]; }

  /// Tensors of the source: a layer's matrices and vectors in the order of its graph.
  size_t matrix_tensor(uint32_t layer, size_t m) const {
    const LayerLayout& at = layout_.layers[layer];
    return m < at.matrices.size() ? at.matrices[m].tensor : at.expert_matrices[m - at.matrices.size()].tensor;
  }
  size_t vector_tensor(uint32_t layer, size_t v) const {
    return layout_.vectors[layout_.layers[layer].first_vector + v].tensor;
  }
  const std::string& name(size_t tensor) const { return source_->tensors()[tensor].name; }
  const std::string& matrix_name(uint32_t layer, size_t m) const { return name(matrix_tensor(layer, m)); }
  bool has_positions() const { return layout_.positions != kNoTensor; }

  /// A tensor as floats. errors: kCorrupt (not finite), kIo; they name the tensor
  Result<RowMatrix<float>> load_matrix(size_t tensor, Eigen::Index rows, Eigen::Index cols) const;
  Result<RowMatrix<float>> load_embedding() const;  ///< [vocab][hidden]
  Result<RowMatrix<float>> load_positions() const;  ///< [position_rows][hidden]; empty if the model has none
  Result<HeadWeights<float>> load_head() const;
  // Of an encoder of texts:
  /// [hidden], what every token's embedding gets on top; of size 0: nothing
  Result<RowVector<float>> load_token_type() const;
  /// Norms without a matrix: of what enters the first layer, and of what leaves the last one.
  Result<HeadWeights<float>> load_embedding_norm() const;
  Result<HeadWeights<float>> load_final_norm() const;
  Result<PoolingWeights<float>> load_pooling() const;
  Result<LayerWeights<float>> load_layer(uint32_t layer) const;

 private:
  ModelGraph(const ModelSource& source, ModelLayout layout, uint32_t context);
  Status load_vector(const VectorPlace& place, bool in_use, float* out) const;
  Result<RowVector<float>> load_end_vector(uint32_t at) const;
  Result<HeadWeights<float>> load_norm(uint32_t gain_at, uint32_t bias_at) const;
  Status load_end(Role role, RowVector<float>* out) const;
  Status load_end(Role role, RowMatrix<float>* out) const;

  const ModelSource* source_;
  ModelLayout layout_;
  uint32_t context_;
  std::vector<LayerGraph> kinds_;
};

}  // namespace nwc
