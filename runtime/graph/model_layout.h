// Which tensors make up a model, and how a layer's weights lie in memory.
#pragma once

#include <functional>
#include <vector>

#include "runtime/format/model_record.h"
#include "runtime/graph/steps.h"

namespace nwc {

/// A tensor of weights within a layer's buffer.
struct PlacedMatrix {
  Role role = Role::kQ;
  size_t tensor = 0;
  uint32_t rows = 0, cols = 0;
  uint64_t offset = 0;  ///< elements in front of it in the layer's buffer
};

/// A vector (gain or bias) within the buffer of all vectors, which is f32.
struct VectorPlace {
  Role role = Role::kFinalNorm;
  size_t tensor = 0;
  uint32_t size = 0;
  uint32_t at = 0;        ///< floats in front of it
  bool one_plus = false;  ///< what is used is 1 + what is stored
};
inline constexpr uint32_t kNoVector = UINT32_MAX;

struct LayerLayout {
  uint8_t kind = 0;                    ///< index into ModelLayout::model.blocks
  std::vector<PlacedMatrix> matrices;  ///< in the order in which they lie, without gaps
  /// Of all experts, those of expert e from e * per_expert on: gate, up (or both in one), down. Each expert is decoded
  /// into a buffer of its own, in which its matrices lie without gaps.
  std::vector<PlacedMatrix> expert_matrices;
  uint32_t per_expert = 0;
  uint64_t expert_elements = 0;          ///< of an expert's buffer
  uint32_t first[kNumLinears + 1] = {};  ///< matrices first[l] .. first[l + 1] - 1 are Linear l
  uint64_t elements = 0;                 ///< of the layer's buffer
  /// Floats in front of a vector, by role, or kNoVector: gains and biases of norms, sinks, router, biases of experts.
  uint32_t vector_at[kNumRoles] = {};
  uint32_t bias_at[kNumLinears] = {};  ///< likewise, of the biases of a product together
  size_t first_vector = 0;             ///< ModelLayout::vectors from here to end_vector - 1 are this layer's
  size_t end_vector = 0;

  uint32_t vector(Role role) const { return vector_at[static_cast<size_t>(role)]; }
  uint32_t bias(Linear l) const { return bias_at[static_cast<size_t>(l)]; }
  /// The matrices of a product as one, which they are in the buffer.
  struct Product {
    uint64_t offset = 0, rows = 0, cols = 0;
  };
  Product product(Linear l) const {
    const std::span<const PlacedMatrix> all = linear(l);
    const uint64_t begin = all.front().offset, cols = all.front().cols;
    return {begin, (all.back().offset - begin) / cols + all.back().rows, cols};
  }
  std::span<const PlacedMatrix> expert(uint32_t e) const {
    return std::span(expert_matrices).subspan(size_t{e} * per_expert, per_expert);
  }
  uint32_t num_experts() const {
    return per_expert == 0 ? 0 : static_cast<uint32_t>(expert_matrices.size() / per_expert);
  }
  std::span<const PlacedMatrix> linear(Linear l) const {
    const uint32_t i = static_cast<uint32_t>(l);
    return std::span(matrices).subspan(first[i], first[i + 1] - first[i]);
  }
};

/// What a model's tensors are looked up in: a .nwc file for the runtime, a model source for the trainer.
struct TensorLookup {
  struct Found {
    size_t index = 0;
    const std::vector<uint64_t>* shape = nullptr;
    bool is_float = false;
    std::string type;  ///< for messages
  };
  std::function<std::optional<Found>(const std::string& name)> find;
  StatusCode wrong_shape = StatusCode::kCorrupt;  ///< what a tensor of another shape is
};

inline constexpr size_t kNoTensor = SIZE_MAX;

struct ModelLayout {
  ModelRecord model;
  std::vector<std::vector<Step>> steps;  ///< of each kind of block
  size_t embedding = kNoTensor;          ///< kNoTensor: an encoder of images
  size_t positions = kNoTensor;  ///< with ends.position_rows only; not of images, whose positions are among `ends`
  size_t head = kNoTensor;       ///< = embedding, where tied; kNoTensor: an encoder
  std::vector<LayerLayout> layers;
  std::vector<VectorPlace> vectors;  ///< of all layers and the ends
  /// What an encoder's ends compute with beside them (runtime/engine/encoder_ends.h), [end_elements] of f32 on the
  /// host.
  std::vector<VectorPlace> ends;
  uint64_t end_elements = 0;
  uint32_t vector_elements = 0;  ///< floats of all of them
  uint32_t final_norm_at = kNoVector, final_norm_bias_at = kNoVector, head_bias_at = kNoVector;
  uint32_t token_types_at = kNoVector, embedding_norm_at = kNoVector, embedding_norm_bias_at = kNoVector;

  const BlockSpec& block(uint32_t layer) const { return model.blocks[layers[layer].kind]; }
  std::span<const Step> layer_steps(uint32_t layer) const { return steps[layers[layer].kind]; }
  bool has_embedding() const { return embedding != kNoTensor; }
  bool has_head() const { return head != kNoTensor; }
  bool separate_head() const { return has_head() && head != embedding; }
  /// Is there a final norm of every token's state?
  bool norms_states() const { return model.ends.final_norm && !model.ends.encoder.pooled_norm; }
  uint64_t max_layer_elements() const;
  /// Experts of all layers.
  uint64_t num_experts() const;
  /// Does any step of any kind of block use this slot?
  bool uses(Slot slot) const;
  /// Numbers a token has in a slot, the most of any kind of block.
  uint32_t max_width(Slot slot) const;
};

/// Finds every tensor by its name and checks type and shape.
/// errors: kUnsupported (a block that is described and not run; a tensor that is not floating point; a tensor of a
///         layer's biases that the description leaves out), kCorrupt (missing, wrong shape): all name tensor or field
Result<ModelLayout> resolve_layout(const ModelRecord& model, const TensorLookup& lookup);

}  // namespace nwc
