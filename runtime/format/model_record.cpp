// Layout and rules: doc/format_model.md, section MODEL.
#include "runtime/format/model_record.h"

#include <cmath>

#include "runtime/base/str_cat.h"
#include "runtime/format/model_record_2.h"

namespace nwc {
namespace {

constexpr uint32_t kNewestVersion = 2;
constexpr size_t kMaxKinds = 16;
constexpr size_t kMaxLongFactors = 512;
constexpr uint32_t kMaxVocab = 1u << 22;
constexpr uint32_t kMaxWidth = 1u << 20;
constexpr uint32_t kMaxHeads = 4096;
constexpr uint32_t kMaxExperts = 4096;
constexpr uint32_t kMaxHeadDim = 1024;
constexpr uint32_t kMaxPositions = 1u << 24;
constexpr size_t kMaxEosIds = 16;
constexpr uint32_t kMaxImageSide = 1u << 14;
constexpr uint32_t kMaxPatch = 1024;
constexpr uint32_t kMaxChannels = 64;
constexpr uint32_t kMaxTypes = 1u << 16;
constexpr size_t kFixedBytes = 64;

Status check_count(uint32_t value, uint32_t max, const char* field) {
  if (value == 0) return corrupt(str_cat("model field ", field, " is 0"));
  if (value > max) {
    return limit_error(str_cat("model field ", field, " is ", value, ", the limit is ", max));
  }
  return {};
}

Status check_positive(float value, const char* field) {
  if (std::isfinite(value) && value > 0) return {};
  return corrupt(str_cat("model field ", field, " is ", std::to_string(value), ", it must be finite and positive"));
}

Status check_finite(float value, const char* field) {
  if (std::isfinite(value) && value != 0) return {};
  return corrupt(str_cat("model field ", field, " is ", std::to_string(value), ", it must be finite and not 0"));
}

// 0 stands for none.
Status check_not_negative(float value, const char* field) {
  if (std::isfinite(value) && value >= 0) return {};
  return corrupt(str_cat("model field ", field, " is ", std::to_string(value), ", it must be finite and not negative"));
}

Status check_factors(const std::vector<float>& factors, uint32_t count, const char* field) {
  if (factors.size() != count || count > kMaxLongFactors) {
    return corrupt(
        str_cat("model field ", field, " has ", factors.size(), " numbers, a head rotates ", count, " pairs"));
  }
  for (const float factor : factors) NWC_TRY(check_positive(factor, field));
  return {};
}

Status validate_rope(const BlockSpec& block) {
  const RopeSpec& rope = block.rope;
  if (block.positions == Positions::kNone) return {};
  const uint32_t dims = block.rope_dims();
  if (dims % 2 != 0 || dims > block.head_dim) {
    return corrupt(
        str_cat("model field rope_dims is ", dims, ", it must be even and at most head_dim, ", block.head_dim));
  }
  NWC_TRY(check_positive(rope.theta, "rope_theta"));
  if (rope.scaling > RopeScaling::kDynamic) {
    return unsupported(
        str_cat("model field rope_scaling is ", static_cast<uint32_t>(rope.scaling), ", known are 0 to 5"));
  }
  NWC_TRY(check_positive(rope.attention_factor, "rope_attention_factor"));
  if (rope.scaling == RopeScaling::kNone) return {};
  if (rope.scaling == RopeScaling::kLong) {
    NWC_TRY(check_factors(rope.short_factors, dims / 2, "rope_short_factors"));
    NWC_TRY(check_factors(rope.long_factors, dims / 2, "rope_long_factors"));
  } else {
    NWC_TRY(check_positive(rope.factor, "rope_factor"));
  }
  if (rope.scaling == RopeScaling::kLinear) return {};
  if (rope.scaling == RopeScaling::kLlama3) {
    NWC_TRY(check_positive(rope.low_freq_factor, "rope_low_freq_factor"));
    NWC_TRY(check_positive(rope.high_freq_factor, "rope_high_freq_factor"));
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return corrupt("model field rope_high_freq_factor must be above rope_low_freq_factor");
    }
  }
  if (rope.scaling == RopeScaling::kYarn) {
    NWC_TRY(check_positive(rope.beta_fast, "rope_beta_fast"));
    NWC_TRY(check_positive(rope.beta_slow, "rope_beta_slow"));
  }
  return check_count(rope.original_max_positions, kMaxPositions, "rope_original_max_positions");
}

Status validate_experts(const ExpertSpec& experts) {
  if (experts.num_experts == 0) {
    return experts == ExpertSpec() ? Status() : corrupt("model field num_experts is 0, but experts are described");
  }
  NWC_TRY(check_count(experts.num_experts, kMaxExperts, "num_experts"));
  NWC_TRY(check_count(experts.per_token, kMaxExperts, "experts per token"));
  if (experts.per_token > experts.num_experts) {
    return corrupt(str_cat("model field experts per token is ", experts.per_token, ", the layer has ",
                           experts.num_experts, " experts"));
  }
  NWC_TRY(check_count(experts.intermediate_size, kMaxWidth, "experts' intermediate_size"));
  if (experts.shared_intermediate_size != 0)
    NWC_TRY(check_count(experts.shared_intermediate_size, kMaxWidth, "shared expert's intermediate_size"));
  if (experts.shared_gate && experts.shared_intermediate_size == 0)
    return corrupt("the model describes a gate of a shared expert that it does not have");
  return check_finite(experts.scale, "router's scale");
}

Status validate_block(const BlockSpec& block) {
  NWC_TRY(check_count(block.intermediate_size, kMaxWidth, "intermediate_size"));
  NWC_TRY(check_count(block.num_heads, kMaxHeads, "num_heads"));
  NWC_TRY(check_count(block.num_kv_heads, kMaxHeads, "num_kv_heads"));
  if (block.num_heads % block.num_kv_heads != 0) {
    return corrupt(
        str_cat("model field num_kv_heads (", block.num_kv_heads, ") must divide num_heads (", block.num_heads, ")"));
  }
  NWC_TRY(check_count(block.head_dim, kMaxHeadDim, "head_dim"));
  if (block.head_dim % 2 != 0) {
    return corrupt(str_cat("model field head_dim is ", block.head_dim, ", it must be even"));
  }
  if (block.window > kMaxPositions) {
    return limit_error(str_cat("model field window is ", block.window, ", the limit is ", kMaxPositions));
  }
  NWC_TRY(check_positive(block.norm_eps, block.norm == NormKind::kRms ? "rms_norm_eps" : "norm_eps"));
  NWC_TRY(check_finite(block.residual_scale, "residual_scale"));
  NWC_TRY(check_not_negative(block.attention_softcap, "attention_softcap"));
  NWC_TRY(check_not_negative(block.attention_scale, "attention_scale"));
  NWC_TRY(check_not_negative(block.temperature_beta, "temperature_beta"));
  if (block.temperature_beta != 0)
    NWC_TRY(check_count(block.temperature_positions, kMaxPositions, "temperature_positions"));
  NWC_TRY(check_not_negative(block.clamp, "clamp"));
  if (block.parallel == Parallel::kSharedNorm && !block.norm_before)
    return corrupt("model field parallel shares a norm that the block does not have");
  if (block.norm_sum && (block.norm_after || block.parallel != Parallel::kNone))
    return corrupt(
        "the model norms the residual stream after attention and MLP, which leaves no other norms behind them");
  NWC_TRY(validate_experts(block.experts));
  return validate_rope(block);
}

bool is_square(uint32_t n) {
  const auto root = static_cast<uint32_t>(std::lround(std::sqrt(static_cast<double>(n))));
  return root * root == n;
}

Status validate_image(const ModelRecord& m) {
  const EncoderSpec& e = m.ends.encoder;
  NWC_TRY(check_count(e.patch_size, kMaxPatch, "patch_size"));
  NWC_TRY(check_count(e.channels, kMaxChannels, "channels"));
  NWC_TRY(check_count(e.image_height, kMaxImageSide, "image_height"));
  NWC_TRY(check_count(e.image_width, kMaxImageSide, "image_width"));
  if (e.patch_size > e.image_height || e.patch_size > e.image_width)
    return corrupt(str_cat("model field patch_size is ", e.patch_size, ", the image has ", e.image_width, " x ",
                           e.image_height, " pixels"));
  if (e.registers > kMaxTypes) return limit_error(str_cat("model field registers is ", e.registers));
  if (e.registers != 0 && !e.class_token)
    return corrupt("the model has registers, but no class token in front of them");
  const uint64_t patches = uint64_t{e.grid_height()} * e.grid_width(), first = e.class_token ? 1 : 0;
  if (m.max_positions != first + e.registers + patches)
    return corrupt(str_cat("model field max_positions is ", m.max_positions, ", an image has ",
                           first + e.registers + patches, " tokens"));
  const uint32_t rows = m.ends.position_rows;
  if (rows > kMaxPositions) return limit_error(str_cat("model field position_rows is ", rows));
  const bool fits = e.position_fit == PositionFit::kExact
                        ? rows == first + patches
                        : rows > first && is_square(rows - static_cast<uint32_t>(first));
  if (rows != 0 && !fits)
    return corrupt(str_cat("model field position_rows is ", rows, " for a grid of ", e.grid_width(), " x ",
                           e.grid_height(), " patches"));
  if (m.vocab_size != 0) return corrupt("the model takes images, and has a vocabulary");
  if (e.token_types != 0) return corrupt("the model takes images, and has token types");
  if (e.pooling == Pooling::kEndOfText) return corrupt("the model takes images, which have no end of text");
  return {};
}

Status validate_encoder(const ModelRecord& m) {
  const EncoderSpec& e = m.ends.encoder;
  if (!m.is_encoder()) return e == EncoderSpec() ? Status() : corrupt("the model describes an encoder without pooling");
  if (!m.tied_embeddings || m.ends.head_bias || m.ends.logit_softcap != 0 || m.ends.logit_scale != 1)
    return corrupt("the model is an encoder, and has a head");
  if (e.projection > kMaxWidth)
    return limit_error(str_cat("model field projection is ", e.projection, ", the limit is ", kMaxWidth));
  if (e.pooled_norm && !m.ends.final_norm) return corrupt("the model describes a norm that it does not have");
  if (e.pooling == Pooling::kAttention && (m.block().q_width() != m.hidden_size || m.block().gated))
    return corrupt("the model's pooling head needs heads as wide as the hidden states, and an MLP without a gate");
  if (e.of_images()) return validate_image(m);
  EncoderSpec text;  // with what one of texts has fields for
  text.pooling = e.pooling;
  text.embedding_norm = e.embedding_norm;
  text.pooler = e.pooler;
  text.pooled_norm = e.pooled_norm;
  text.normalized = e.normalized;
  text.token_types = e.token_types;
  text.projection = e.projection;
  if (e != text) return corrupt("the model takes texts, and describes an image");
  if (e.token_types > kMaxTypes) return limit_error(str_cat("model field token_types is ", e.token_types));
  return {};
}

/// A field that this kind of scaling does not use: all bits zero, so that every model has one record only.
Status check_unused(uint32_t bits, const char* field) {
  if (bits == 0) return {};
  return corrupt(str_cat("model field ", field, " must be zero with this rope_scaling"));
}

}  // namespace

Status validate(const ModelRecord& record) {
  const bool of_images = record.ends.encoder.of_images();
  if (!of_images) NWC_TRY(check_count(record.vocab_size, kMaxVocab, "vocab_size"));
  NWC_TRY(check_count(record.hidden_size, kMaxWidth, "hidden_size"));
  NWC_TRY(check_count(record.num_layers, kMaxModelLayers, "num_layers"));
  NWC_TRY(check_count(record.max_positions, kMaxPositions, "max_positions"));
  if (record.blocks.empty() || record.blocks.size() > kMaxKinds) {
    return corrupt(str_cat("the model has ", record.blocks.size(), " kinds of blocks, it must have 1 to ", kMaxKinds));
  }
  if (!record.block_kind.empty() && record.block_kind.size() != record.num_layers)
    return corrupt(str_cat("model field block_kind has ", record.block_kind.size(), " entries for ", record.num_layers,
                           " layers"));
  for (const uint8_t kind : record.block_kind) {
    if (kind >= record.blocks.size())
      return corrupt(str_cat("model field block_kind names kind ", kind, ", the model has ", record.blocks.size()));
  }
  for (size_t i = 0; i < record.blocks.size(); ++i) {
    Status status = validate_block(record.blocks[i]);
    if (!status.ok()) return record.blocks.size() == 1 ? status : status.with_context(str_cat("block kind ", i));
  }
  NWC_TRY(check_finite(record.ends.embedding_scale, "embedding_scale"));
  NWC_TRY(check_not_negative(record.ends.logit_softcap, "logit_softcap"));
  NWC_TRY(check_finite(record.ends.logit_scale, "logit_scale"));
  NWC_TRY(validate_encoder(record));
  if (!of_images && (record.ends.position_rows > kMaxPositions ||
                     (record.ends.position_rows != 0 && record.ends.position_rows < record.max_positions))) {
    return corrupt(str_cat("model field position_rows is ", record.ends.position_rows, " for ", record.max_positions,
                           " positions"));
  }
  NWC_TRY(validate_names(record.names));
  if (record.eos_ids.size() > kMaxEosIds) {
    return limit_error(
        str_cat("model field eos_ids has ", record.eos_ids.size(), " entries, the limit is ", kMaxEosIds));
  }
  for (uint32_t id : record.eos_ids) {
    if (id >= record.vocab_size) {
      return corrupt(str_cat("model field eos_ids holds token ", id, ", the vocabulary has ", record.vocab_size));
    }
  }
  return {};
}

bool fits_record_1(const ModelRecord& record) {
  if (record.blocks.size() != 1 || record.ends != EndsSpec() || !record.names.empty()) return false;
  const BlockSpec& block = record.blocks.front();
  if (block.rope.scaling > RopeScaling::kLlama3) return false;
  BlockSpec plain;  // with what version 1 has fields for
  plain.num_heads = block.num_heads;
  plain.num_kv_heads = block.num_kv_heads;
  plain.head_dim = block.head_dim;
  plain.intermediate_size = block.intermediate_size;
  plain.norm_eps = block.norm_eps;
  plain.rope.theta = block.rope.theta;
  plain.rope.scaling = block.rope.scaling;
  plain.rope.factor = block.rope.factor;
  plain.rope.low_freq_factor = block.rope.low_freq_factor;
  plain.rope.high_freq_factor = block.rope.high_freq_factor;
  plain.rope.original_max_positions = block.rope.original_max_positions;
  return block == plain;
}

Status check_runnable(const ModelRecord& record) {
  for (const BlockSpec& block : record.blocks) {
    if (!block.causal && !record.is_encoder())
      return unsupported("attention to later positions in a model that is no encoder is not run");
    if (!block.causal && block.window != 0) return unsupported("attention to later positions in a window is not run");
    if (block.experts.num_experts != 0 && !block.gated) return unsupported("experts without a gate are not run");
    if (block.experts.shared_intermediate_size != 0 && block.mlp_bias)
      return unsupported("a shared expert with biases is not run");
    if ((block.clamp != 0 || block.up_plus_one) && !block.gated)
      return unsupported("clamped activations without a gate are not run");
  }
  return {};
}

Result<ModelRecord> parse_model_record(Bytes section, uint64_t file_offset) {
  ByteReader reader(section, file_offset);
  ModelRecord record;
  uint32_t version = 0;
  NWC_TRY(reader.read(&version, "MODEL version"));
  const std::string where = str_cat("MODEL section at offset ", file_offset);
  if (version == 0 || version > kNewestVersion) {
    return unsupported(str_cat(where, " has record version ", version, ", this build reads 1 to ", kNewestVersion,
                               "; use a newer version of this program"));
  }
  if (version == 2) {
    Result<ModelRecord> newer = parse_model_record_2(&reader);
    if (!newer.ok()) return std::move(newer).status().with_context(where);
    NWC_TRY(reader.expect_end("MODEL section"));
    NWC_TRY(validate(*newer).with_context(where));
    return newer;
  }
  NWC_TRY(reader.read(&record.vocab_size, "vocab_size"));
  NWC_TRY(reader.read(&record.hidden_size, "hidden_size"));
  NWC_TRY(reader.read(&record.block().intermediate_size, "intermediate_size"));
  NWC_TRY(reader.read(&record.num_layers, "num_layers"));
  NWC_TRY(reader.read(&record.block().num_heads, "num_heads"));
  NWC_TRY(reader.read(&record.block().num_kv_heads, "num_kv_heads"));
  NWC_TRY(reader.read(&record.block().head_dim, "head_dim"));
  NWC_TRY(reader.read(&record.max_positions, "max_positions"));
  NWC_TRY(reader.read(&record.block().norm_eps, "rms_norm_eps"));
  NWC_TRY(reader.read(&record.block().rope.theta, "rope_theta"));
  uint8_t scaling = 0, tied = 0, num_eos = 0, reserved = 0;
  NWC_TRY(reader.read(&scaling, "rope_scaling"));
  NWC_TRY(reader.read(&tied, "tied_embeddings"));
  NWC_TRY(reader.read(&num_eos, "number of eos_ids"));
  NWC_TRY(reader.read(&reserved, "reserved"));
  // Unknown values come before everything else: what follows may mean something else then.
  if (scaling > static_cast<uint8_t>(RopeScaling::kLlama3)) {
    return unsupported(str_cat("model field rope_scaling is ", scaling, ", known are 0 to 2"));
  }
  if (tied > 1 || reserved != 0) {
    return unsupported(str_cat("MODEL section: bytes 45 and 47 (offset ", file_offset + 45, ") are ", tied, " and ",
                               reserved, ", known are 0 or 1, and 0"));
  }
  uint32_t factor = 0, low = 0, high = 0, original = 0;
  NWC_TRY(reader.read(&factor, "rope_factor"));
  NWC_TRY(reader.read(&low, "rope_low_freq_factor"));
  NWC_TRY(reader.read(&high, "rope_high_freq_factor"));
  NWC_TRY(reader.read(&original, "rope_original_max_positions"));
  record.block().rope.scaling = static_cast<RopeScaling>(scaling);
  record.tied_embeddings = tied == 1;
  if (record.block().rope.scaling == RopeScaling::kNone) {
    NWC_TRY(check_unused(factor, "rope_factor"));
  } else {
    record.block().rope.factor = std::bit_cast<float>(factor);
  }
  if (record.block().rope.scaling == RopeScaling::kLlama3) {
    record.block().rope.low_freq_factor = std::bit_cast<float>(low);
    record.block().rope.high_freq_factor = std::bit_cast<float>(high);
    record.block().rope.original_max_positions = original;
  } else {
    NWC_TRY(check_unused(low, "rope_low_freq_factor"));
    NWC_TRY(check_unused(high, "rope_high_freq_factor"));
    NWC_TRY(check_unused(original, "rope_original_max_positions"));
  }
  NWC_TRY(reader.read_array(&record.eos_ids, num_eos, "eos_ids"));
  NWC_TRY(reader.expect_end("MODEL section"));
  NWC_TRY(validate(record).with_context(where));
  return record;
}

std::vector<uint8_t> serialize(const ModelRecord& record) {
  assert(validate(record).ok());
  if (!fits_record_1(record)) {
    ByteWriter writer;
    writer.write(uint32_t{2});
    write_model_record_2(record, &writer);
    return writer.take();
  }
  const bool scaled = record.block().rope.scaling != RopeScaling::kNone;
  const bool llama3 = record.block().rope.scaling == RopeScaling::kLlama3;
  std::vector<uint8_t> bytes(kFixedBytes + 4 * record.eos_ids.size());
  store_le<uint32_t>(&bytes[0], 1);
  store_le<uint32_t>(&bytes[4], record.vocab_size);
  store_le<uint32_t>(&bytes[8], record.hidden_size);
  store_le<uint32_t>(&bytes[12], record.block().intermediate_size);
  store_le<uint32_t>(&bytes[16], record.num_layers);
  store_le<uint32_t>(&bytes[20], record.block().num_heads);
  store_le<uint32_t>(&bytes[24], record.block().num_kv_heads);
  store_le<uint32_t>(&bytes[28], record.block().head_dim);
  store_le<uint32_t>(&bytes[32], record.max_positions);
  store_le<float>(&bytes[36], record.block().norm_eps);
  store_le<float>(&bytes[40], record.block().rope.theta);
  bytes[44] = static_cast<uint8_t>(record.block().rope.scaling);
  bytes[45] = record.tied_embeddings ? 1 : 0;
  bytes[46] = static_cast<uint8_t>(record.eos_ids.size());
  if (scaled) store_le<float>(&bytes[48], record.block().rope.factor);
  if (llama3) {
    store_le<float>(&bytes[52], record.block().rope.low_freq_factor);
    store_le<float>(&bytes[56], record.block().rope.high_freq_factor);
    store_le<uint32_t>(&bytes[60], record.block().rope.original_max_positions);
  }
  for (size_t i = 0; i < record.eos_ids.size(); ++i) store_le<uint32_t>(&bytes[kFixedBytes + 4 * i], record.eos_ids[i]);
  return bytes;
}

}  // namespace nwc
