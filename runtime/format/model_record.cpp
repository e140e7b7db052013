// Layout and rules: doc/format_model.md, section MODEL.
#include "runtime/format/model_record.h"

#include <cmath>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

constexpr uint32_t kRecordVersion = 1;
constexpr uint32_t kMaxVocab = 1u << 22;
constexpr uint32_t kMaxWidth = 1u << 20;
constexpr uint32_t kMaxLayers = 4096;
constexpr uint32_t kMaxHeads = 4096;
constexpr uint32_t kMaxHeadDim = 1024;
constexpr uint32_t kMaxPositions = 1u << 24;
constexpr size_t kMaxEosIds = 16;
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

Status validate_rope(const ModelRecord& record) {
  NWC_TRY(check_positive(record.rope_theta, "rope_theta"));
  if (record.rope_scaling > RopeScaling::kLlama3) {
    return unsupported(
        str_cat("model field rope_scaling is ", static_cast<uint32_t>(record.rope_scaling), ", known are 0 to 2"));
  }
  if (record.rope_scaling == RopeScaling::kNone) return {};
  NWC_TRY(check_positive(record.rope_factor, "rope_factor"));
  if (record.rope_scaling == RopeScaling::kLinear) return {};
  NWC_TRY(check_positive(record.rope_low_freq_factor, "rope_low_freq_factor"));
  NWC_TRY(check_positive(record.rope_high_freq_factor, "rope_high_freq_factor"));
  if (record.rope_high_freq_factor <= record.rope_low_freq_factor) {
    return corrupt("model field rope_high_freq_factor must be above rope_low_freq_factor");
  }
  return check_count(record.rope_original_max_positions, kMaxPositions, "rope_original_max_positions");
}

/// A field that this kind of scaling does not use: all bits zero, so that every model has one record only.
Status check_unused(uint32_t bits, const char* field) {
  if (bits == 0) return {};
  return corrupt(str_cat("model field ", field, " must be zero with this rope_scaling"));
}

}  // namespace

Status validate(const ModelRecord& record) {
  NWC_TRY(check_count(record.vocab_size, kMaxVocab, "vocab_size"));
  NWC_TRY(check_count(record.hidden_size, kMaxWidth, "hidden_size"));
  NWC_TRY(check_count(record.intermediate_size, kMaxWidth, "intermediate_size"));
  NWC_TRY(check_count(record.num_layers, kMaxLayers, "num_layers"));
  NWC_TRY(check_count(record.num_heads, kMaxHeads, "num_heads"));
  NWC_TRY(check_count(record.num_kv_heads, kMaxHeads, "num_kv_heads"));
  if (record.num_heads % record.num_kv_heads != 0) {
    return corrupt(
        str_cat("model field num_kv_heads (", record.num_kv_heads, ") must divide num_heads (", record.num_heads, ")"));
  }
  NWC_TRY(check_count(record.head_dim, kMaxHeadDim, "head_dim"));
  if (record.head_dim % 2 != 0) {
    return corrupt(str_cat("model field head_dim is ", record.head_dim, ", it must be even"));
  }
  NWC_TRY(check_count(record.max_positions, kMaxPositions, "max_positions"));
  NWC_TRY(check_positive(record.rms_norm_eps, "rms_norm_eps"));
  NWC_TRY(validate_rope(record));
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

Result<ModelRecord> parse_model_record(Bytes section, uint64_t file_offset) {
  ByteReader reader(section, file_offset);
  ModelRecord record;
  uint32_t version = 0;
  NWC_TRY(reader.read(&version, "MODEL version"));
  if (version != kRecordVersion) {
    return unsupported(str_cat("MODEL section at offset ", file_offset, " has record version ", version,
                               ", this build reads ", kRecordVersion, "; use a newer version of this program"));
  }
  NWC_TRY(reader.read(&record.vocab_size, "vocab_size"));
  NWC_TRY(reader.read(&record.hidden_size, "hidden_size"));
  NWC_TRY(reader.read(&record.intermediate_size, "intermediate_size"));
  NWC_TRY(reader.read(&record.num_layers, "num_layers"));
  NWC_TRY(reader.read(&record.num_heads, "num_heads"));
  NWC_TRY(reader.read(&record.num_kv_heads, "num_kv_heads"));
  NWC_TRY(reader.read(&record.head_dim, "head_dim"));
  NWC_TRY(reader.read(&record.max_positions, "max_positions"));
  NWC_TRY(reader.read(&record.rms_norm_eps, "rms_norm_eps"));
  NWC_TRY(reader.read(&record.rope_theta, "rope_theta"));
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
  record.rope_scaling = static_cast<RopeScaling>(scaling);
  record.tied_embeddings = tied == 1;
  if (record.rope_scaling == RopeScaling::kNone) {
    NWC_TRY(check_unused(factor, "rope_factor"));
  } else {
    record.rope_factor = std::bit_cast<float>(factor);
  }
  if (record.rope_scaling == RopeScaling::kLlama3) {
    record.rope_low_freq_factor = std::bit_cast<float>(low);
    record.rope_high_freq_factor = std::bit_cast<float>(high);
    record.rope_original_max_positions = original;
  } else {
    NWC_TRY(check_unused(low, "rope_low_freq_factor"));
    NWC_TRY(check_unused(high, "rope_high_freq_factor"));
    NWC_TRY(check_unused(original, "rope_original_max_positions"));
  }
  NWC_TRY(reader.read_array(&record.eos_ids, num_eos, "eos_ids"));
  NWC_TRY(reader.expect_end("MODEL section"));
  NWC_TRY(validate(record).with_context(str_cat("MODEL section at offset ", file_offset)));
  return record;
}

std::vector<uint8_t> serialize(const ModelRecord& record) {
  assert(validate(record).ok());
  const bool scaled = record.rope_scaling != RopeScaling::kNone;
  const bool llama3 = record.rope_scaling == RopeScaling::kLlama3;
  std::vector<uint8_t> bytes(kFixedBytes + 4 * record.eos_ids.size());
  store_le<uint32_t>(&bytes[0], kRecordVersion);
  store_le<uint32_t>(&bytes[4], record.vocab_size);
  store_le<uint32_t>(&bytes[8], record.hidden_size);
  store_le<uint32_t>(&bytes[12], record.intermediate_size);
  store_le<uint32_t>(&bytes[16], record.num_layers);
  store_le<uint32_t>(&bytes[20], record.num_heads);
  store_le<uint32_t>(&bytes[24], record.num_kv_heads);
  store_le<uint32_t>(&bytes[28], record.head_dim);
  store_le<uint32_t>(&bytes[32], record.max_positions);
  store_le<float>(&bytes[36], record.rms_norm_eps);
  store_le<float>(&bytes[40], record.rope_theta);
  bytes[44] = static_cast<uint8_t>(record.rope_scaling);
  bytes[45] = record.tied_embeddings ? 1 : 0;
  bytes[46] = static_cast<uint8_t>(record.eos_ids.size());
  if (scaled) store_le<float>(&bytes[48], record.rope_factor);
  if (llama3) {
    store_le<float>(&bytes[52], record.rope_low_freq_factor);
    store_le<float>(&bytes[56], record.rope_high_freq_factor);
    store_le<uint32_t>(&bytes[60], record.rope_original_max_positions);
  }
  for (size_t i = 0; i < record.eos_ids.size(); ++i) store_le<uint32_t>(&bytes[kFixedBytes + 4 * i], record.eos_ids[i]);
  return bytes;
}

}  // namespace nwc
