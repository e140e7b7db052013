#include "trainer/data/hf_family_encoders.h"

#include <cmath>

#include "trainer/data/hf_family_parts.h"
#include "trainer/data/hf_names.h"

namespace nwc {
namespace {

using Names = std::vector<TensorName>;

/// Sizes, activation and what most encoders share: layer norms and biases everywhere, attention to all tokens, no MLP
/// gate, no rotary positions, no head.
Status read_encoder(ConfigReader& c, const Habits& habits, ModelRecord* m, BlockSpec* b) {
  NWC_TRY(c.require("hidden_size", &m->hidden_size));
  NWC_TRY(c.require("num_hidden_layers", &m->num_layers));
  NWC_TRY(check_layers(m->num_layers));
  NWC_TRY(c.require("num_attention_heads", &b->num_heads));
  b->num_kv_heads = b->num_heads;
  if (m->hidden_size % b->num_heads != 0)
    return corrupt("field \"num_attention_heads\" is " + std::to_string(b->num_heads) +
                   ", which does not divide \"hidden_size\", " + std::to_string(m->hidden_size));
  b->head_dim = m->hidden_size / b->num_heads;
  b->norm = NormKind::kLayer;
  b->norm_bias = true;
  b->norm_eps = habits.eps;
  NWC_TRY(c.get("layer_norm_eps", &b->norm_eps));
  b->positions = Positions::kNone;
  b->causal = false;
  b->gated = false;
  b->qkv_bias = b->output_bias = b->mlp_bias = true;
  m->tied_embeddings = true;
  for (const char* training_only :
       {"initializer_factor", "layerscale_value", "drop_path_rate", "logit_scale_init_value", "classifier_dropout",
        "tie_word_embeddings", "projection_dim", "use_mask_token", "out_features", "out_indices", "stage_names",
        "apply_layernorm", "reshape_hidden_states", "encoder_stride", "pooler_output_size"})
    c.find(training_only);
  return read_activation(c, habits, b);
}

/// Image, patches and the positions of both; the number of tokens.
Status read_image(ConfigReader& c, uint32_t image_size, uint32_t patch_size, ModelRecord* m) {
  EncoderSpec& e = m->ends.encoder;
  e.patch_size = patch_size;
  e.channels = 3;
  NWC_TRY(c.get("image_size", &image_size));
  NWC_TRY(c.get("patch_size", &e.patch_size));
  NWC_TRY(c.get("num_channels", &e.channels));
  e.image_height = e.image_width = image_size;
  if (e.patch_size == 0 || image_size / e.patch_size == 0 || image_size > 1u << 14)
    return corrupt("fields \"image_size\" and \"patch_size\" are " + std::to_string(image_size) + " and " +
                   std::to_string(e.patch_size) + ": there is no patch");
  const uint32_t first = e.class_token ? 1 : 0, patches = e.grid_height() * e.grid_width();
  m->max_positions = first + e.registers + patches;
  m->ends.position_rows = first + patches;
  return {};
}

Status one_kind(const BlockSpec& b, ModelRecord* m) { return set_layers(std::vector<BlockSpec>(m->num_layers, b), m); }

Status read_dino(ConfigReader& c, bool registers, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(read_encoder(c, {.eps = 1e-6f, .activation = "gelu"}, m, &b));
  EncoderSpec& e = m->ends.encoder;
  e.class_token = e.patch_bias = true;
  e.pooling = Pooling::kFirst;
  e.position_fit = registers ? PositionFit::kBicubicAntialiased : PositionFit::kBicubic;
  if (registers) {
    e.registers = 4;
    NWC_TRY(c.get("num_register_tokens", &e.registers));
  }
  NWC_TRY(read_image(c, 224, registers ? 16 : 14, m));
  c.find("intermediate_size");  // follows from the ratio
  uint32_t ratio = 4;
  bool swiglu = false;
  NWC_TRY(c.get("mlp_ratio", &ratio));
  NWC_TRY(c.get("use_swiglu_ffn", &swiglu));
  NWC_TRY(c.get("qkv_bias", &b.qkv_bias));
  if (ratio == 0 || ratio > 64) return corrupt("field \"mlp_ratio\" is " + std::to_string(ratio));
  b.intermediate_size = std::min(m->hidden_size, 1u << 20) * ratio;
  if (swiglu) {
    b.intermediate_size = (b.intermediate_size * 2 / 3 + 7) / 8 * 8;
    b.gated = true;
    b.activation = MlpActivation::kSilu;
    for (TensorName& name : m->names) {
      const bool up = name.role == Role::kUp || name.role == Role::kUpBias;
      if (!up && name.role != Role::kDown && name.role != Role::kDownBias) continue;
      const std::string module = up ? "fc1" : "fc2";
      name.pattern.replace(name.pattern.find(module), module.size(), up ? "weights_in" : "weights_out");
      if (up) name.role = name.role == Role::kUp ? Role::kGateUp : Role::kGateUpBias;
    }
  }
  b.layer_scale = true;
  return one_kind(b, m);
}

}  // namespace

Status read_bert(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(c.require("vocab_size", &m->vocab_size));
  NWC_TRY(c.require("intermediate_size", &b.intermediate_size));
  NWC_TRY(read_encoder(c, {.eps = 1e-12f, .activation = "gelu"}, m, &b));
  m->max_positions = 512;
  NWC_TRY(c.get("max_position_embeddings", &m->max_positions));
  m->ends.position_rows = m->max_positions;
  std::string positions = "absolute";
  NWC_TRY(c.get("position_embedding_type", &positions));
  if (positions != "absolute")
    return unsupported("\"position_embedding_type\" is \"" + positions + "\", which the engine does not run");
  bool decoder = false;
  NWC_TRY(c.get("is_decoder", &decoder));
  if (decoder) return unsupported("\"is_decoder\" is true, which the engine does not run");
  EncoderSpec& e = m->ends.encoder;
  e.token_types = 2;
  NWC_TRY(c.get("type_vocab_size", &e.token_types));
  e.embedding_norm = true;
  e.pooling = Pooling::kFirst;
  m->ends.final_norm = false;
  b.norm_before = false;
  b.norm_sum = true;
  return one_kind(b, m);
}

Status read_vit(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(c.require("intermediate_size", &b.intermediate_size));
  NWC_TRY(read_encoder(c, {.eps = 1e-12f, .activation = "gelu"}, m, &b));
  EncoderSpec& e = m->ends.encoder;
  e.class_token = e.patch_bias = true;
  e.pooling = Pooling::kFirst;
  NWC_TRY(read_image(c, 224, 16, m));
  NWC_TRY(c.get("qkv_bias", &b.qkv_bias));
  std::string pooler = "tanh";
  NWC_TRY(c.get("pooler_act", &pooler));
  if (pooler != "tanh") return unsupported("\"pooler_act\" is \"" + pooler + "\", which the engine does not run");
  return one_kind(b, m);
}

Status read_dinov2(ConfigReader& c, ModelRecord* m) { return read_dino(c, false, m); }
Status read_dinov2_registers(ConfigReader& c, ModelRecord* m) { return read_dino(c, true, m); }

Status read_clip_text(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  NWC_TRY(c.require("vocab_size", &m->vocab_size));
  NWC_TRY(c.require("intermediate_size", &b.intermediate_size));
  NWC_TRY(c.get("projection_dim", &m->ends.encoder.projection));
  NWC_TRY(read_encoder(c, {.eps = 1e-5f, .activation = "quick_gelu"}, m, &b));
  m->max_positions = 77;
  NWC_TRY(c.get("max_position_embeddings", &m->max_positions));
  m->ends.position_rows = m->max_positions;
  b.causal = true;
  m->ends.encoder.pooling = Pooling::kEndOfText;
  // Older files say 2, where the highest id of a text is taken, which is that of its end.
  uint32_t eos = 49407;
  NWC_TRY(c.get("eos_token_id", &eos));
  m->eos_ids = {eos == 2 ? m->vocab_size - 1 : std::min(eos, m->vocab_size - 1)};
  return one_kind(b, m);
}

Status read_clip_vision(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  EncoderSpec& e = m->ends.encoder;
  NWC_TRY(c.require("intermediate_size", &b.intermediate_size));
  NWC_TRY(c.get("projection_dim", &e.projection));
  NWC_TRY(read_encoder(c, {.eps = 1e-5f, .activation = "quick_gelu"}, m, &b));
  e.class_token = e.embedding_norm = e.pooled_norm = true;
  e.pooling = Pooling::kFirst;
  NWC_TRY(read_image(c, 224, 32, m));
  return one_kind(b, m);
}

Status read_siglip_vision(ConfigReader& c, ModelRecord* m) {
  BlockSpec b;
  EncoderSpec& e = m->ends.encoder;
  NWC_TRY(c.require("intermediate_size", &b.intermediate_size));
  NWC_TRY(read_encoder(c, {.eps = 1e-6f, .activation = "gelu_pytorch_tanh"}, m, &b));
  e.patch_bias = true;
  bool head = true;
  NWC_TRY(c.get("vision_use_head", &head));
  e.pooling = head ? Pooling::kAttention : Pooling::kMean;
  NWC_TRY(read_image(c, 224, 16, m));
  return one_kind(b, m);
}

std::vector<TensorName> names_of_bert() {
  const std::string layer = "bert.encoder.layer.{}.";
  Names names = {{Role::kEmbedding, "bert.embeddings.word_embeddings.weight"},
                 {Role::kPositions, "bert.embeddings.position_embeddings.weight"},
                 {Role::kTokenTypes, "bert.embeddings.token_type_embeddings.weight"}};
  add(&names, "bert.embeddings.LayerNorm", Role::kEmbeddingNorm, Role::kEmbeddingNormBias);
  add(&names, layer + "attention.self.query", Role::kQ, Role::kQBias);
  add(&names, layer + "attention.self.key", Role::kK, Role::kKBias);
  add(&names, layer + "attention.self.value", Role::kV, Role::kVBias);
  add(&names, layer + "attention.output.dense", Role::kOutput, Role::kOutputBias);
  add(&names, layer + "attention.output.LayerNorm", Role::kAttentionPostNorm, Role::kAttentionPostNormBias);
  add(&names, layer + "intermediate.dense", Role::kUp, Role::kUpBias);
  add(&names, layer + "output.dense", Role::kDown, Role::kDownBias);
  add(&names, layer + "output.LayerNorm", Role::kMlpPostNorm, Role::kMlpPostNormBias);
  add(&names, "bert.pooler.dense", Role::kPooler, Role::kPoolerBias);
  return names;
}

std::vector<TensorName> names_of_vit() {
  const std::string layer = "vit.encoder.layer.{}.";
  Names names = {{Role::kClassToken, "vit.embeddings.cls_token"},
                 {Role::kPositions, "vit.embeddings.position_embeddings"}};
  add(&names, "vit.embeddings.patch_embeddings.projection", Role::kPatch, Role::kPatchBias);
  add(&names, layer + "layernorm_before", Role::kAttentionNorm, Role::kAttentionNormBias);
  add(&names, layer + "attention.attention.query", Role::kQ, Role::kQBias);
  add(&names, layer + "attention.attention.key", Role::kK, Role::kKBias);
  add(&names, layer + "attention.attention.value", Role::kV, Role::kVBias);
  add(&names, layer + "attention.output.dense", Role::kOutput, Role::kOutputBias);
  add(&names, layer + "layernorm_after", Role::kMlpNorm, Role::kMlpNormBias);
  add(&names, layer + "intermediate.dense", Role::kUp, Role::kUpBias);
  add(&names, layer + "output.dense", Role::kDown, Role::kDownBias);
  add(&names, "vit.layernorm", Role::kFinalNorm, Role::kFinalNormBias);
  add(&names, "vit.pooler.dense", Role::kPooler, Role::kPoolerBias);
  return names;
}

std::vector<TensorName> names_of_dinov2() {
  const std::string layer = "dinov2.encoder.layer.{}.";
  Names names = {{Role::kClassToken, "dinov2.embeddings.cls_token"},
                 {Role::kRegisters, "dinov2.embeddings.register_tokens"},
                 {Role::kPositions, "dinov2.embeddings.position_embeddings"},
                 {Role::kAttentionScale, layer + "layer_scale1.lambda1"},
                 {Role::kMlpScale, layer + "layer_scale2.lambda1"}};
  add(&names, "dinov2.embeddings.patch_embeddings.projection", Role::kPatch, Role::kPatchBias);
  add(&names, layer + "norm1", Role::kAttentionNorm, Role::kAttentionNormBias);
  add(&names, layer + "attention.attention.query", Role::kQ, Role::kQBias);
  add(&names, layer + "attention.attention.key", Role::kK, Role::kKBias);
  add(&names, layer + "attention.attention.value", Role::kV, Role::kVBias);
  add(&names, layer + "attention.output.dense", Role::kOutput, Role::kOutputBias);
  add(&names, layer + "norm2", Role::kMlpNorm, Role::kMlpNormBias);
  add(&names, layer + "mlp.fc1", Role::kUp, Role::kUpBias);
  add(&names, layer + "mlp.fc2", Role::kDown, Role::kDownBias);
  add(&names, "dinov2.layernorm", Role::kFinalNorm, Role::kFinalNormBias);
  return names;
}

namespace {

/// The blocks and the final norm of both of CLIP's models, and of SigLIP's.
Names names_of_clip(const std::string& model, const std::string& final_norm) {
  const std::string layer = model + "encoder.layers.{}.";
  Names names;
  add(&names, layer + "layer_norm1", Role::kAttentionNorm, Role::kAttentionNormBias);
  add(&names, layer + "self_attn.q_proj", Role::kQ, Role::kQBias);
  add(&names, layer + "self_attn.k_proj", Role::kK, Role::kKBias);
  add(&names, layer + "self_attn.v_proj", Role::kV, Role::kVBias);
  add(&names, layer + "self_attn.out_proj", Role::kOutput, Role::kOutputBias);
  add(&names, layer + "layer_norm2", Role::kMlpNorm, Role::kMlpNormBias);
  add(&names, layer + "mlp.fc1", Role::kUp, Role::kUpBias);
  add(&names, layer + "mlp.fc2", Role::kDown, Role::kDownBias);
  add(&names, model + final_norm, Role::kFinalNorm, Role::kFinalNormBias);
  return names;
}

}  // namespace

std::vector<TensorName> names_of_clip_text() {
  Names names = names_of_clip("text_model.", "final_layer_norm");
  names.push_back({Role::kEmbedding, "text_model.embeddings.token_embedding.weight"});
  names.push_back({Role::kPositions, "text_model.embeddings.position_embedding.weight"});
  names.push_back({Role::kProjection, "text_projection.weight"});
  return names;
}

std::vector<TensorName> names_of_clip_vision() {
  Names names = names_of_clip("vision_model.", "post_layernorm");
  names.push_back({Role::kPatch, "vision_model.embeddings.patch_embedding.weight"});
  names.push_back({Role::kPositions, "vision_model.embeddings.position_embedding.weight"});
  names.push_back({Role::kClassToken, "vision_model.embeddings.class_embedding"});
  add(&names, "vision_model.pre_layrnorm", Role::kEmbeddingNorm, Role::kEmbeddingNormBias);
  names.push_back({Role::kProjection, "visual_projection.weight"});
  return names;
}

std::vector<TensorName> names_of_siglip_vision() {
  Names names = names_of_clip("vision_model.", "post_layernorm");
  add(&names, "vision_model.embeddings.patch_embedding", Role::kPatch, Role::kPatchBias);
  names.push_back({Role::kPositions, "vision_model.embeddings.position_embedding.weight"});
  const std::string head = "vision_model.head.";
  names.push_back({Role::kPoolProbe, head + "probe"});
  names.push_back({Role::kPoolQkv, head + "attention.in_proj_weight"});
  names.push_back({Role::kPoolQkvBias, head + "attention.in_proj_bias"});
  add(&names, head + "attention.out_proj", Role::kPoolOutput, Role::kPoolOutputBias);
  add(&names, head + "layernorm", Role::kPoolNorm, Role::kPoolNormBias);
  add(&names, head + "mlp.fc1", Role::kPoolUp, Role::kPoolUpBias);
  add(&names, head + "mlp.fc2", Role::kPoolDown, Role::kPoolDownBias);
  return names;
}

}  // namespace nwc
