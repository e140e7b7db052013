// One kind of transformer layer for training: the steps of runtime/graph on values that are never overwritten, as the
// backward pass needs them, and the layer's weights.
#pragma once

#include <vector>

#include "runtime/graph/model_layout.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// A matrix of a layer as the model stores it: alone, or fused with others that have the same input.
struct LayerMatrix {
  Role role = Role::kQ;
  Linear linear = Linear::kQkv;
  Eigen::Index rows = 0, cols = 0;
  Eigen::Index first_row = 0;   ///< of the product that it is part of
  size_t input_owner = 0;       ///< the first matrix of the layer that has the same input; perhaps itself
  uint32_t expert = kNoExpert;  ///< that it is of
  static constexpr uint32_t kNoExpert = UINT32_MAX;
};

/// A gain or bias of a layer, `size` numbers of LayerWeights::vectors from `at` on.
struct LayerVector {
  Role role = Role::kAttentionNorm;
  Eigen::Index at = 0, size = 0;
  bool one_plus = false;  ///< what is used is 1 + what is stored
};

/// Weights of a layer as the model stores them, or their gradients. A gradient that is empty is not wanted.
template <typename T>
struct LayerWeights {
  std::vector<RowMatrix<T>> matrices;  ///< LayerGraph::matrices(), each [rows][cols]
  RowVector<T> vectors;                ///< LayerGraph::vectors(), one behind the other

  template <typename U>
  LayerWeights<U> cast() const {
    LayerWeights<U> out;
    for (const RowMatrix<T>& m : matrices) out.matrices.push_back(m.template cast<U>());
    out.vectors = vectors.template cast<U>();
    return out;
  }
};

/// Immutable: threads and layers of one kind share it.
class LayerGraph {
 public:
  /// Of the kind of block that `layer` is of. context: positions of the longest sequence, on which some rotary scalings
  /// depend.
  LayerGraph(const ModelLayout& layout, uint32_t layer, uint32_t context);

  /// A step that reads and writes values instead of slots. Value 0 is the layer's input.
  struct Op {
    Step step;
    size_t in = 0;
    size_t base = 0;                          ///< kAdd and accumulating kLinear: what is added to
    size_t out = 0;                           ///< kRotate: = in, as no other step needs what was there before
    size_t routed = 0;                        ///< kExperts, kShare: where the router says which experts
    size_t first_matrix = 0, end_matrix = 0;  ///< kLinear; kExperts: of all experts
    // Of size 0 if there is none:
    LayerVector gain;      ///< kNorm, kScale; kQkNorm: of the queries; kAttend: sinks; kRoute: the router
    LayerVector key_gain;  ///< kQkNorm; kRoute: the shared expert's gate; kExperts: their down's biases
    LayerVector bias;      ///< kNorm, kLinear (all of a product together), kRoute; kExperts: of gate and up
  };
  const std::vector<Op>& ops() const { return ops_; }
  const std::vector<Eigen::Index>& widths() const { return widths_; }  ///< of the values
  size_t output() const { return output_; }                            ///< the value that leaves the layer

  const BlockSpec& spec() const { return spec_; }
  const std::vector<LayerMatrix>& matrices() const { return matrices_; }
  const std::vector<LayerVector>& vectors() const { return vectors_; }
  Eigen::Index vector_elements() const { return vector_elements_; }
  Eigen::Index hidden() const { return widths_.front(); }
  Eigen::Index context() const { return cosine_.rows(); }
  Eigen::Index elements_per_token() const;  ///< of the matrices that a token is multiplied by
  /// Matrices of experts lie behind the others, those of one expert together: gate and up (or both in one), down.
  size_t first_expert_matrix() const { return first_expert_; }
  size_t per_expert() const { return per_expert_; }
  size_t num_experts() const { return per_expert_ == 0 ? 0 : (matrices_.size() - first_expert_) / per_expert_; }
  /// Of a matrix that is no expert's.
  size_t input_value(size_t matrix) const { return input_value_[matrix]; }
  size_t output_value(size_t matrix) const { return output_value_[matrix]; }
  /// Is the product that the matrix is part of added to another value? That is then base_value().
  bool has_base(size_t matrix) const { return base_value_[matrix] != kNoValue; }
  size_t base_value(size_t matrix) const { return base_value_[matrix]; }

  /// Cosines and sines of each pair of dimensions at each position, times the attention factor, and the scale of
  /// queries: [context][rope_dims / 2], [context]
  const RowMatrix<double>& cosine() const { return cosine_; }
  const RowMatrix<double>& sine() const { return sine_; }
  const RowVector<double>& query_scales() const { return query_scales_; }

  /// Are matrices and vectors of the sizes that this layer has?
  template <typename T>
  bool fits(const LayerWeights<T>& weights) const {
    if (weights.matrices.size() != matrices_.size() || weights.vectors.size() != vector_elements_) return false;
    for (size_t m = 0; m < matrices_.size(); ++m) {
      if (weights.matrices[m].rows() != matrices_[m].rows || weights.matrices[m].cols() != matrices_[m].cols)
        return false;
    }
    return true;
  }

 private:
  void place_weights(const ModelLayout& layout, const LayerLayout& layer);
  void expand(const std::vector<Step>& steps, const LayerLayout& layer, Eigen::Index first_vector);
  void compute_angles(Eigen::Index context);
  LayerVector find(Role role) const;

  BlockSpec spec_;
  std::vector<LayerMatrix> matrices_;
  std::vector<LayerVector> vectors_;
  Eigen::Index vector_elements_ = 0;
  std::vector<Op> ops_;
  std::vector<Eigen::Index> widths_;
  static constexpr size_t kNoValue = SIZE_MAX;
  std::vector<size_t> input_value_, output_value_, base_value_;
  size_t output_ = 0, first_expert_ = 0, per_expert_ = 0;
  RowMatrix<double> cosine_, sine_;
  RowVector<double> query_scales_;
};

}  // namespace nwc
