// The MODEL section: config.json as a binary record (doc/format.md, section 7). The encoder fills it from Hugging Face
// or GGUF files; the runtime parses it back and never sees JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/format/block_spec.h"
#include "runtime/format/tokenizer_record.h"

namespace nwc {

/// The most layers that a MODEL record has (doc/format_model.md).
inline constexpr uint32_t kMaxModelLayers = 4096;

/// Where the tensors of one role have their name: a pattern with "{}" for the layer's number, and a second one for the
/// expert's where each has a tensor of its own.
struct TensorName {
  Role role = Role::kEmbedding;
  std::string pattern;
  bool operator==(const TensorName&) const = default;
};

/// A model that predicts tokens, or an encoder of texts or images. Tensors have shapes [out][in]; names() says what
/// they are called.
struct ModelRecord {
  uint32_t vocab_size = 0;  ///< 0: an encoder of images
  uint32_t hidden_size = 0;
  uint32_t num_layers = 0;
  uint32_t max_positions = 0;
  bool tied_embeddings = false;                ///< the head is the embedding
  std::vector<BlockSpec> blocks{BlockSpec()};  ///< the kinds of blocks, at least one
  std::vector<uint8_t> block_kind;             ///< [num_layers], indices into blocks; empty: all are of the first kind
  EndsSpec ends;
  std::vector<TensorName> names;  ///< empty: Llama's in Hugging Face's form (llama_names())
  std::vector<uint32_t> eos_ids;  ///< generation stops at any of these; at most 16

  const BlockSpec& block(uint32_t layer = 0) const { return blocks[block_kind.empty() ? 0 : block_kind[layer]]; }
  BlockSpec& block(uint32_t layer = 0) { return blocks[block_kind.empty() ? 0 : block_kind[layer]]; }
  /// The name of a role's tensor, of a layer where the role is one of a layer's, and of an expert where it is one of an
  /// expert's; empty: the model has no such tensor.
  std::string tensor_name(Role role, uint32_t layer = 0, uint32_t expert = 0) const;
  /// Does it give hidden states and embeddings, and no logits?
  bool is_encoder() const { return ends.encoder.pooling != Pooling::kNone; }
  /// Numbers of an encoder's embedding.
  uint32_t embedding_size() const { return ends.encoder.projection != 0 ? ends.encoder.projection : hidden_size; }
  /// Is any kind of block a mixture of experts?
  bool has_experts() const;
  bool operator==(const ModelRecord&) const = default;
};

/// "model.layers.{}.self_attn.q_proj.weight" and so on: what records of version 1 mean.
const std::vector<TensorName>& llama_names();
/// Can version 1 of the record say it all? Writers use it then, so that readers of format 1.0 run the model.
bool fits_record_1(const ModelRecord& record);
/// Why no session can run this model, though the record is valid: what this version describes and does not compute.
/// Names the field. OK: it can.
Status check_runnable(const ModelRecord& record);

/// Checks ranges and relations (heads divide, limits of doc/format_model.md). Message names the field.
Status validate(const ModelRecord& record);
Result<ModelRecord> parse_model_record(Bytes section, uint64_t file_offset);
std::vector<uint8_t> serialize(const ModelRecord& record);

}  // namespace nwc
