// The MODEL section: round trips, and every rule of doc/format_model.md.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "runtime/format/constants.h"
#include "runtime/format/dtype.h"
#include "runtime/format/model_record.h"
#include "tests/model_records.h"

namespace nwc {
namespace {

ModelRecord llama3_record() {
  ModelRecord record = test::llama_record(
      {.vocab = 128256, .hidden = 2048, .inner = 8192, .layers = 16, .heads = 32, .kv_heads = 8, .context = 131072});
  record.block().rope.theta = 500000.0f;
  record.block().rope.scaling = RopeScaling::kLlama3;
  record.block().rope.factor = 32.0f;
  record.block().rope.low_freq_factor = 1.0f;
  record.block().rope.high_freq_factor = 4.0f;
  record.block().rope.original_max_positions = 8192;
  record.tied_embeddings = true;
  record.eos_ids = {128001, 128008, 128009};
  return record;
}

std::vector<ModelRecord> valid_records() {
  std::vector<ModelRecord> records(3, llama3_record());
  records[1].block().rope.scaling = RopeScaling::kLinear;
  records[2].block().rope.scaling = RopeScaling::kNone;
  records[2].eos_ids.clear();
  records[2].tied_embeddings = false;
  return records;
}

TEST(ModelRecord, RoundTrips) {
  for (const ModelRecord& record : valid_records()) {
    const std::vector<uint8_t> bytes = serialize(record);
    EXPECT_EQ(bytes.size(), 64 + 4 * record.eos_ids.size());
    const auto parsed = parse_model_record(bytes, 1000);
    ASSERT_TRUE(parsed.ok()) << parsed.status().message();
    EXPECT_EQ(serialize(*parsed), bytes);
    EXPECT_EQ(parsed->vocab_size, record.vocab_size);
    EXPECT_EQ(parsed->hidden_size, record.hidden_size);
    EXPECT_EQ(parsed->block().intermediate_size, record.block().intermediate_size);
    EXPECT_EQ(parsed->num_layers, record.num_layers);
    EXPECT_EQ(parsed->block().num_heads, record.block().num_heads);
    EXPECT_EQ(parsed->block().num_kv_heads, record.block().num_kv_heads);
    EXPECT_EQ(parsed->block().head_dim, record.block().head_dim);
    EXPECT_EQ(parsed->max_positions, record.max_positions);
    EXPECT_EQ(parsed->block().norm_eps, record.block().norm_eps);
    EXPECT_EQ(parsed->block().rope.theta, record.block().rope.theta);
    EXPECT_EQ(parsed->block().rope.scaling, record.block().rope.scaling);
    EXPECT_EQ(parsed->tied_embeddings, record.tied_embeddings);
    EXPECT_EQ(parsed->eos_ids, record.eos_ids);
  }
  const auto scaled = parse_model_record(serialize(llama3_record()), 0);
  ASSERT_TRUE(scaled.ok());
  EXPECT_EQ(scaled->block().rope.factor, 32.0f);
  EXPECT_EQ(scaled->block().rope.high_freq_factor, 4.0f);
  EXPECT_EQ(scaled->block().rope.original_max_positions, 8192u);
}

TEST(ModelRecord, ValidateNamesTheField) {
  struct Case {
    const char* field;
    std::function<void(ModelRecord&)> damage;
  };
  const float kInf = std::numeric_limits<float>::infinity();
  const Case cases[] = {
      {"vocab_size", [](ModelRecord& r) { r.vocab_size = 0; }},
      {"vocab_size", [](ModelRecord& r) { r.vocab_size = (1u << 22) + 1; }},
      {"hidden_size", [](ModelRecord& r) { r.hidden_size = (1u << 20) + 1; }},
      {"intermediate_size", [](ModelRecord& r) { r.block().intermediate_size = 0; }},
      {"num_layers", [](ModelRecord& r) { r.num_layers = 4097; }},
      {"num_heads", [](ModelRecord& r) { r.block().num_heads = UINT32_MAX; }},
      {"num_kv_heads", [](ModelRecord& r) { r.block().num_kv_heads = 0; }},
      {"num_kv_heads", [](ModelRecord& r) { r.block().num_kv_heads = 5; }},
      {"num_kv_heads", [](ModelRecord& r) { r.block().num_kv_heads = 64; }},
      {"head_dim", [](ModelRecord& r) { r.block().head_dim = 63; }},
      {"head_dim", [](ModelRecord& r) { r.block().head_dim = 1026; }},
      {"max_positions", [](ModelRecord& r) { r.max_positions = (1u << 24) + 1; }},
      {"rms_norm_eps", [](ModelRecord& r) { r.block().norm_eps = 0; }},
      {"rms_norm_eps", [](ModelRecord& r) { r.block().norm_eps = std::numeric_limits<float>::quiet_NaN(); }},
      {"rope_theta", [&](ModelRecord& r) { r.block().rope.theta = kInf; }},
      {"rope_theta", [](ModelRecord& r) { r.block().rope.theta = -1; }},
      {"rope_scaling", [](ModelRecord& r) { r.block().rope.scaling = static_cast<RopeScaling>(9); }},
      {"rope_factor", [](ModelRecord& r) { r.block().rope.factor = -0.0f; }},
      {"rope_low_freq_factor", [](ModelRecord& r) { r.block().rope.low_freq_factor = 0; }},
      {"rope_high_freq_factor", [](ModelRecord& r) { r.block().rope.high_freq_factor = 1; }},
      {"rope_original_max_positions", [](ModelRecord& r) { r.block().rope.original_max_positions = 0; }},
      {"eos_ids", [](ModelRecord& r) { r.eos_ids.assign(17, 0); }},
      {"eos_ids", [](ModelRecord& r) { r.eos_ids = {128256}; }},
  };
  for (const Case& c : cases) {
    ModelRecord record = llama3_record();
    ASSERT_TRUE(validate(record).ok());
    c.damage(record);
    const Status status = validate(record);
    EXPECT_FALSE(status.ok()) << c.field;
    EXPECT_NE(status.message().find(c.field), std::string::npos) << status.message();
  }
}

TEST(ModelRecord, RejectsEveryPrefixAndTrailingBytes) {
  for (const ModelRecord& record : valid_records()) {
    std::vector<uint8_t> bytes = serialize(record);
    for (size_t n = 0; n < bytes.size(); ++n) {
      const std::vector<uint8_t> prefix(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n));
      EXPECT_FALSE(parse_model_record(prefix, 0).ok()) << n;
    }
    bytes.push_back(0);
    EXPECT_EQ(parse_model_record(bytes, 0).status().code(), StatusCode::kCorrupt);
  }
}

// A changed byte is rejected or gives a record that is written back as the changed bytes: no field is ignored.
TEST(ModelRecord, NoByteIsIgnored) {
  for (const ModelRecord& record : valid_records()) {
    const std::vector<uint8_t> bytes = serialize(record);
    for (size_t i = 0; i < bytes.size(); ++i) {
      for (uint32_t flip = 1; flip < 256; ++flip) {
        std::vector<uint8_t> damaged = bytes;
        damaged[i] = static_cast<uint8_t>(damaged[i] ^ flip);
        const auto parsed = parse_model_record(damaged, 0);
        if (!parsed.ok()) continue;
        EXPECT_EQ(serialize(*parsed), damaged) << "byte " << i;
      }
    }
  }
}

/// Two kinds of blocks and what version 1 cannot say.
ModelRecord gemma_like_record() {
  ModelRecord record = test::llama_record(
      {.vocab = 64, .hidden = 32, .inner = 48, .layers = 3, .heads = 4, .kv_heads = 2, .context = 128});
  BlockSpec local = record.block();
  local.norm_one_plus = local.norm_after = true;
  local.qk_norm = QkNorm::kPerHead;
  local.window = 16;
  local.attention_softcap = 50;
  local.attention_scale = 0.25f;
  local.activation = MlpActivation::kGeluTanh;
  BlockSpec full = local;
  full.window = 0;
  full.rope.scaling = RopeScaling::kLong;
  full.rope.original_max_positions = 64;
  full.rope.short_factors = {1, 1, 1, 1};
  full.rope.long_factors = {1, 2, 3, 4};
  record.blocks = {local, full};
  record.block_kind = {0, 1, 0};
  record.ends.embedding_scale = 5.5f;
  record.ends.logit_softcap = 30;
  record.names = llama_names();
  record.eos_ids = {1, 7};
  return record;
}

TEST(ModelRecord, VersionTwoComesBackAsItWas) {
  const ModelRecord record = gemma_like_record();
  ASSERT_TRUE(validate(record).ok()) << validate(record).message();
  EXPECT_FALSE(fits_record_1(record));
  const std::vector<uint8_t> bytes = serialize(record);
  EXPECT_EQ(bytes[0], 2);
  const auto parsed = parse_model_record(bytes, 0);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  EXPECT_TRUE(*parsed == record);
  EXPECT_EQ(parsed->block(1).rope.long_factors[3], 4.0f);
  EXPECT_EQ(parsed->tensor_name(Role::kQ, 2), "model.layers.2.self_attn.q_proj.weight");
  for (size_t n = 0; n < bytes.size(); ++n) {
    const std::vector<uint8_t> prefix(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n));
    EXPECT_FALSE(parse_model_record(prefix, 0).ok()) << n;
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (uint32_t flip = 1; flip < 256; ++flip) {
      std::vector<uint8_t> damaged = bytes;
      damaged[i] = static_cast<uint8_t>(damaged[i] ^ flip);
      const auto changed = parse_model_record(damaged, 0);
      if (!changed.ok()) continue;
      EXPECT_EQ(serialize(*changed), damaged) << "byte " << i;
    }
  }
}

TEST(ModelRecord, VersionTwoIsValidated) {
  using Change = void (*)(ModelRecord&);
  const std::pair<const char*, Change> changes[] = {
      {"window", [](ModelRecord& r) { r.blocks[0].window = UINT32_MAX; }},
      {"rope_dims", [](ModelRecord& r) { r.blocks[0].rope.dims = 10; }},
      {"rope_long_factors", [](ModelRecord& r) { r.blocks[1].rope.long_factors.pop_back(); }},
      {"residual_scale", [](ModelRecord& r) { r.blocks[1].residual_scale = NAN; }},
      {"attention_softcap", [](ModelRecord& r) { r.blocks[1].attention_softcap = -1; }},
      {"temperature_positions", [](ModelRecord& r) { r.blocks[1].temperature_beta = 1; }},
      {"block kind 1", [](ModelRecord& r) { r.blocks[1].head_dim = 7; }},
      {"block_kind", [](ModelRecord& r) { r.block_kind[2] = 2; }},
      {"block_kind", [](ModelRecord& r) { r.block_kind.pop_back(); }},
      {"position_rows", [](ModelRecord& r) { r.ends.position_rows = 5; }},
      {"logit_scale", [](ModelRecord& r) { r.ends.logit_scale = 0; }},
      {"needs {} once", [](ModelRecord& r) { r.names[3].pattern = "no place"; }},
      {"must not have {}", [](ModelRecord& r) { r.names[0].pattern = "{}"; }},
      {"second one", [](ModelRecord& r) { r.names.push_back(r.names[0]); }},
      {"parallel",
       [](ModelRecord& r) { r.blocks[0].parallel = Parallel::kSharedNorm, r.blocks[0].norm_before = false; }},
  };
  for (const auto& [part, change] : changes) {
    ModelRecord record = gemma_like_record();
    change(record);
    const Status status = validate(record);
    EXPECT_FALSE(status.ok()) << part;
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
  ModelRecord experts = gemma_like_record();
  ExpertSpec& spec = experts.blocks[0].experts;
  spec = {.num_experts = 8, .per_token = 2, .intermediate_size = 16, .shared_intermediate_size = 24};
  spec.shared_gate = true;
  EXPECT_TRUE(validate(experts).ok());
  EXPECT_TRUE(check_runnable(experts).ok());
  const std::pair<const char*, void (*)(ExpertSpec&)> wrong[] = {
      {"experts per token", [](ExpertSpec& e) { e.per_token = 9; }},
      {"experts per token", [](ExpertSpec& e) { e.per_token = 0; }},
      {"num_experts", [](ExpertSpec& e) { e.num_experts = 0; }},
      {"num_experts", [](ExpertSpec& e) { e.num_experts = 1u << 13; }},
      {"intermediate_size", [](ExpertSpec& e) { e.intermediate_size = 0; }},
      {"gate of a shared expert", [](ExpertSpec& e) { e.shared_intermediate_size = 0; }},
      {"scale", [](ExpertSpec& e) { e.scale = 0; }},
  };
  for (const auto& [part, change] : wrong) {
    ModelRecord record = experts;
    change(record.blocks[0].experts);
    EXPECT_NE(validate(record).message().find(part), std::string::npos) << validate(record).message();
  }
  const Result<ModelRecord> again = parse_model_record(serialize(experts), 0);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, experts);
  experts.names = {{Role::kExpertDown, "layer.{}.down"}};
  EXPECT_NE(validate(experts).message().find("needs {} twice"), std::string::npos) << validate(experts).message();
}

TEST(ModelRecord, RejectsAnotherVersion) {
  std::vector<uint8_t> bytes = serialize(llama3_record());
  bytes[0] = 3;
  EXPECT_EQ(parse_model_record(bytes, 0).status().code(), StatusCode::kUnsupported);
}

TEST(Dtype, NamesAndSizes) {
  EXPECT_STREQ(dtype_name(Dtype::kBf16), "BF16");
  EXPECT_STREQ(dtype_name(static_cast<Dtype>(22)), "?");
  for (uint8_t d = 0; d < kNumDtypes; ++d) {
    const std::string name = dtype_name(static_cast<Dtype>(d));
    const size_t digits = name.find_first_of("0123456789");
    const uint32_t bits = digits == std::string::npos ? 8 : static_cast<uint32_t>(std::stoul(name.substr(digits)));
    EXPECT_EQ(dtype_bits(static_cast<Dtype>(d)), bits) << name;
    EXPECT_EQ(dtype_size(static_cast<Dtype>(d)), bits / 8) << name;
  }
  EXPECT_EQ(dtype_bytes(Dtype::kF6E2M3, 4), 3u);
  EXPECT_EQ(dtype_bytes(Dtype::kF4, kMaxTensorElements), uint64_t{1} << 39);
}

// Largest, least normal, least number and what is special of each type, as the Python package ml_dtypes has them.
TEST(Dtype, EightBitFloats) {
  const auto value = [](Dtype dtype, uint8_t bits) { return load_float(dtype, &bits); };
  EXPECT_EQ(value(Dtype::kF8E4M3, 0x38), 1.0f);
  EXPECT_EQ(value(Dtype::kF8E4M3, 0x7e), 448.0f);
  EXPECT_EQ(value(Dtype::kF8E4M3, 0x08), 0x1p-6f);
  EXPECT_EQ(value(Dtype::kF8E4M3, 0x81), -0x1p-9f);
  EXPECT_EQ(value(Dtype::kF8E4M3, 0xc5), -3.25f);
  EXPECT_TRUE(std::isnan(value(Dtype::kF8E4M3, 0x7f)) && std::isnan(value(Dtype::kF8E4M3, 0xff)));
  EXPECT_EQ(value(Dtype::kF8E5M2, 0x3c), 1.0f);
  EXPECT_EQ(value(Dtype::kF8E5M2, 0x7b), 57344.0f);
  EXPECT_EQ(value(Dtype::kF8E5M2, 0x01), 0x1p-16f);
  EXPECT_EQ(value(Dtype::kF8E5M2, 0xfc), -INFINITY);
  EXPECT_TRUE(std::isnan(value(Dtype::kF8E5M2, 0x7d)));
  EXPECT_EQ(value(Dtype::kF8E8M0, 127), 1.0f);
  EXPECT_EQ(value(Dtype::kF8E8M0, 0), 0x1p-127f);
  EXPECT_EQ(value(Dtype::kF8E8M0, 254), 0x1p127f);
  EXPECT_TRUE(std::isnan(value(Dtype::kF8E8M0, 255)));
  EXPECT_EQ(value(Dtype::kF8E4M3Fnuz, 0x40), 1.0f);
  EXPECT_EQ(value(Dtype::kF8E4M3Fnuz, 0x7f), 240.0f);
  EXPECT_EQ(value(Dtype::kF8E4M3Fnuz, 0x08), 0x1p-7f);
  EXPECT_EQ(value(Dtype::kF8E4M3Fnuz, 0x81), -0x1p-10f);
  EXPECT_TRUE(std::isnan(value(Dtype::kF8E4M3Fnuz, 0x80)));
  EXPECT_EQ(value(Dtype::kF8E5M2Fnuz, 0x40), 1.0f);
  EXPECT_EQ(value(Dtype::kF8E5M2Fnuz, 0x7f), 57344.0f);
  EXPECT_EQ(value(Dtype::kF8E5M2Fnuz, 0x04), 0x1p-15f);
  EXPECT_EQ(value(Dtype::kF8E5M2Fnuz, 0x81), -0x1p-17f);
  EXPECT_TRUE(std::isnan(value(Dtype::kF8E5M2Fnuz, 0x80)));
  EXPECT_TRUE(std::signbit(value(Dtype::kF8E4M3, 0x80)) && value(Dtype::kF8E4M3, 0x80) == 0);
}

}  // namespace
}  // namespace nwc
