#include "trainer/data/gguf_family_parts.h"

#include "trainer/data/hf_family.h"

namespace nwc {

Status set_sliding(const GgufContext& c, const BlockSpec& full, BlockSpec local, uint32_t n) {
  NWC_TRY(c.get("attention.sliding_window", &local.window));
  const std::string key = c.prefix + "attention.sliding_window_pattern";
  std::vector<bool> slides;
  if (c.file.is_array(key)) {
    NWC_TRY(c.file.get(key, &slides));
    if (slides.size() != c.layers()) return corrupt("metadata key \"" + key + "\" must have an entry for each layer");
  } else {
    NWC_TRY(c.file.get(key, &n));
    for (uint32_t l = 0; l < c.layers(); ++l) slides.push_back(n == 0 || (l + 1) % n != 0);
  }
  const bool forgets = local.window != 0 && local.window < c.model->max_positions;
  if (!forgets) local.window = 0;
  std::vector<BlockSpec> layers;
  for (uint32_t l = 0; l < c.layers(); ++l) layers.push_back(slides[l] ? local : full);
  return set_layers(layers, c.model);
}

Status uniform(const GgufContext& c) { return set_sliding(c, c.block, c.block, 0); }

void read_biases(GgufContext& c) {
  c.block.qkv_bias = c.has_tensor("blk.0.attn_q.bias") || c.has_tensor("blk.0.attn_qkv.bias");
  c.block.output_bias = c.has_tensor("blk.0.attn_output.bias");
  c.block.mlp_bias = c.has_tensor("blk.0.ffn_up.bias");
}

Status read_granite_scales(GgufContext& c) {
  float logits = 1;
  NWC_TRY(c.get("embedding_scale", &c.model->ends.embedding_scale));
  NWC_TRY(c.get("residual_scale", &c.block.residual_scale));
  NWC_TRY(c.get("attention.scale", &c.block.attention_scale));
  NWC_TRY(c.get("logit_scale", &logits));
  if (!(logits > 0)) return corrupt("metadata key \"" + c.prefix + "logit_scale\" must be positive");
  c.model->ends.logit_scale = 1 / logits;
  bool rotary = true;
  NWC_TRY(c.get("rope.scaling.finetuned", &rotary));
  if (!rotary) c.block.positions = Positions::kNone;
  return {};
}

}  // namespace nwc
