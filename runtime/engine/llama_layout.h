// Which tensors of a file make up a Llama model, and how a layer's weights lie in memory.
#pragma once

#include <vector>

#include "runtime/format/nwc_file.h"

namespace nwc {

/// The seven matrices of a layer, in the order in which they lie in a layer buffer, without gaps: q, k and v (gate and
/// up) follow each other, so that they are one matrix product.
enum LayerMatrix : uint32_t { kQ, kK, kV, kO, kGate, kUp, kDown, kNumLayerMatrices };

struct LlamaLayer {
  size_t matrix[kNumLayerMatrices] = {};
  size_t attention_norm = 0, mlp_norm = 0;
};

struct LlamaLayout {
  ModelRecord model;
  size_t embedding = 0;
  size_t head = 0;  ///< = embedding, where tied
  size_t final_norm = 0;
  std::vector<LlamaLayer> layers;

  uint32_t q_width() const { return model.num_heads * model.head_dim; }
  uint32_t kv_width() const { return model.num_kv_heads * model.head_dim; }
  uint32_t qkv_width() const { return q_width() + 2 * kv_width(); }
  uint64_t matrix_rows(LayerMatrix m) const;
  uint64_t matrix_cols(LayerMatrix m) const;
  /// Elements in front of matrix m in a layer buffer; kNumLayerMatrices: the whole layer.
  uint64_t matrix_offset(uint32_t m) const;
  /// Those of `file` that are multiplied by and coded: of the layers from `first_layer` on, and the head, if asked for.
  std::vector<size_t> coded_matrices(const NwcFile& file, uint32_t first_layer = 0, bool with_head = true) const;
  /// Norm gains are kept in f32, all together: two per layer, then the final one.
  uint64_t norm_elements() const { return (2 * uint64_t{model.num_layers} + 1) * model.hidden_size; }
};

/// Finds every tensor by its Hugging Face name and checks type and shape.
/// errors: kUnsupported (no MODEL section: says why, a tensor that is not floating point), kCorrupt (a tensor is missing
///         or has the wrong shape); all name the tensor
Result<LlamaLayout> resolve_llama_layout(const NwcFile& file);

}  // namespace nwc
