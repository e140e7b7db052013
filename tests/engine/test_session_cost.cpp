// Cost prediction: the measured rates, and the times that follow from them for a session.
#include <gtest/gtest.h>

#include "runtime/engine/session_cost.h"
#include "tests/codec/reference_encoder.h"
#include "tests/model_records.h"

namespace nwc {
namespace {

constexpr uint32_t kHidden = 64, kInner = 128, kVocab = 512, kLayers = 12;
constexpr uint64_t kLayerWeights = 4 * kHidden * kHidden + 3 * kHidden * kInner;
constexpr uint64_t kHeadWeights = kVocab * kHidden;

struct CostModel {
  std::vector<uint8_t> bytes;
  std::unique_ptr<NwcFile> file;
};

reference::CodecOptions codec_options(uint32_t width, uint32_t blocks) {
  reference::CodecOptions o;
  o.width = width;
  o.blocks = blocks;
  if (width != 0) o.activation = Activation::kRelu;
  return o;
}

/// A Llama model with tied embeddings, all matrices coded (or none).
CostModel make_cost_model(const reference::CodecOptions& options, bool coded = true) {
  const CodecRecord codec = reference::make_codec(options, 1);
  std::vector<reference::TestTensor> tensors;
  const auto matrix = [&](const std::string& name, uint64_t rows, uint64_t cols) {
    if (!coded) {
      tensors.push_back(reference::make_raw_tensor(name, std::vector<uint8_t>(rows * cols * 2), false));
      tensors.back().record.dtype = Dtype::kF16;
      tensors.back().record.shape = {rows, cols};
      return;
    }
    reference::TensorOptions o;
    o.name = name;
    o.shape = {rows, cols};
    o.tile_rows = 64;
    o.tile_cols = 64;
    o.wrapping = false;
    tensors.push_back(reference::make_tensor(codec, o, 2));
  };
  const auto gain = [&](const std::string& name) {
    tensors.push_back(reference::make_raw_tensor(name, std::vector<uint8_t>(kHidden * 4), false));
    tensors.back().record.dtype = Dtype::kF32;
    tensors.back().record.shape = {kHidden};
  };
  matrix("model.embed_tokens.weight", kVocab, kHidden);
  for (uint32_t l = 0; l < kLayers; ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    gain(p + "input_layernorm.weight");
    for (const char* name : {"q", "k", "v", "o"}) matrix(p + "self_attn." + name + "_proj.weight", kHidden, kHidden);
    gain(p + "post_attention_layernorm.weight");
    matrix(p + "mlp.gate_proj.weight", kInner, kHidden);
    matrix(p + "mlp.up_proj.weight", kInner, kHidden);
    matrix(p + "mlp.down_proj.weight", kHidden, kInner);
  }
  gain("model.norm.weight");

  ModelRecord m = test::llama_record({.vocab = kVocab,
                                      .hidden = kHidden,
                                      .inner = kInner,
                                      .layers = kLayers,
                                      .heads = 4,
                                      .kv_heads = 4,
                                      .context = 128});
  m.tied_embeddings = true;

  ByteWriter data;
  std::vector<TensorRecord> records;
  for (reference::TestTensor& t : tensors) {
    while (data.size() % 64 != 0) data.write(uint8_t{0});
    t.record.offset = data.size();
    data.write_bytes(t.blob);
    records.push_back(t.record);
  }
  CostModel model;
  model.bytes = reference::make_container(FileKind::kModel, {{SectionType::kModel, serialize(m)},
                                                             {SectionType::kCodec, serialize(codec)},
                                                             {SectionType::kTensors, serialize(records), true},
                                                             {SectionType::kProvenance, serialize(Metadata{})},
                                                             {SectionType::kData, data.take()}});
  auto file = NwcFile::open(make_memory_reader(model.bytes));
  EXPECT_TRUE(file.ok()) << file.status().message();
  model.file = std::move(file).value();
  return model;
}

/// Answers at once, or fails, and notes how much it was asked for.
class RecordingDecoder final : public Decoder {
 public:
  explicit RecordingDecoder(const NwcFile& file, Status status = {}) : file_(file), status_(std::move(status)) {}
  const std::string& name() const override { return name_; }
  Status decode_values(size_t, std::span<int16_t>) override { return unsupported("weights only"); }
  Status decode(const DecodeRequest& r) override {
    const uint64_t weights = (r.row_end - r.row_begin) * file_.tensors()[r.tensor].cols();
    EXPECT_EQ(r.out.size(), weights * dtype_size(r.dtype));
    most_ = std::max(most_, weights);
    ++calls_;
    return status_;
  }
  uint64_t most() const { return most_; }
  int calls() const { return calls_; }

 private:
  const NwcFile& file_;
  const Status status_;
  const std::string name_ = "recording";
  uint64_t most_ = 0;
  int calls_ = 0;
};

TEST(DecodeRate, SliceShrinksWithTheNetwork) {
  const CostModel linear = make_cost_model(codec_options(0, 0));
  RecordingDecoder fast(*linear.file);
  const auto rate = measure_decode_rate(*linear.file, fast);
  ASSERT_TRUE(rate.ok());
  EXPECT_EQ(linear.file->tensors()[rate->tensor].name, "model.layers.0.mlp.gate_proj.weight");
  EXPECT_EQ(rate->weights, kInner * kHidden);
  EXPECT_EQ(fast.most(), rate->weights);
  EXPECT_GT(fast.calls(), 1);  // the first one is not counted

  const CostModel expensive = make_cost_model(codec_options(512, 7));
  const double macs = expensive.file->codec()->synthesis.mac_per_weight();
  EXPECT_GT(macs, 9e4);
  EXPECT_LT(static_cast<double>(most_rate_weights(macs)) * macs, 2.1e9);
  EXPECT_EQ(most_rate_weights(0), kMostRateWeights);
}

TEST(DecodeRate, WideTensorsAreLeftToTheNarrowest) {
  reference::CodecOptions options = codec_options(512, 6);
  const CodecRecord codec = reference::make_codec(options, 1);
  std::vector<reference::TestTensor> tensors;
  for (const uint64_t cols : {2048u, 64u}) {
    reference::TensorOptions o;
    o.name = "w" + std::to_string(cols);
    o.shape = {48, cols};
    o.tile_rows = 48;
    o.tile_cols = 64;
    tensors.push_back(reference::make_tensor(codec, o, 2));
  }
  const std::vector<uint8_t> bytes = reference::make_file(codec, &tensors);
  const auto file = NwcFile::open(make_memory_reader(bytes));
  ASSERT_TRUE(file.ok());
  RecordingDecoder decoder(**file);
  const auto rate = measure_decode_rate(**file, decoder);
  ASSERT_TRUE(rate.ok());
  EXPECT_EQ(rate->tensor, 1u);
  EXPECT_LE(decoder.most(), most_rate_weights(codec.synthesis.mac_per_weight()));
}

TEST(DecodeRate, NothingCodedAndErrors) {
  const CostModel raw = make_cost_model(codec_options(0, 0), false);
  RecordingDecoder never(*raw.file);
  const auto none = measure_decode_rate(*raw.file, never);
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->weights, 0u);
  EXPECT_EQ(none->weights_per_second(), 0);
  EXPECT_EQ(never.calls(), 0);

  const CostModel coded = make_cost_model(codec_options(0, 0));
  RecordingDecoder broken(*coded.file, Status(StatusCode::kChecksum, "made to fail"));
  EXPECT_EQ(measure_decode_rate(*coded.file, broken).status().code(), StatusCode::kChecksum);
}

TEST(DecodeRate, FusedTakesTheLargestTensorBelowTheLimit) {
  const CostModel model = make_cost_model(codec_options(0, 0));
  const auto runner = make_thread_pool(1);
  const CpuLevel cpu = detect_cpu_level();
  EXPECT_EQ(measure_fused_rate(*model.file, *runner, cpu, 1 << 30)->weights, kHeadWeights);
  EXPECT_EQ(measure_fused_rate(*model.file, *runner, cpu, kHeadWeights - 1)->weights, kInner * kHidden);
  EXPECT_EQ(measure_fused_rate(*model.file, *runner, cpu, 10)->weights, 0u);
}

MemoryPlan plan_of(const NwcFile& file, SessionMode mode) {
  SessionParams params;
  params.mode = mode;
  params.num_threads = 1;
  const auto plan = plan_session(file, params);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  return *plan;
}

SessionCost cost_of(const NwcFile& file, const MemoryPlan& plan) {
  const SessionRates rates{.decoded_weights = 1e6, .fused_weights = 2e6, .memory_bytes = 1e8};
  const auto cost = session_cost(file, plan, Dtype::kF16, rates);
  EXPECT_TRUE(cost.ok()) << cost.status().message();
  return *cost;
}

TEST(SessionCost, FollowsThePlan) {
  const CostModel model = make_cost_model(codec_options(0, 0));
  const double layers = kLayers * kLayerWeights, head = kHeadWeights;

  const SessionCost resident = cost_of(*model.file, plan_of(*model.file, SessionMode::kResident));
  EXPECT_EQ(resident.mac_per_weight, 16);
  EXPECT_EQ(resident.weights_per_token, 0u);
  EXPECT_DOUBLE_EQ(resident.load_seconds, (layers + head) / 1e6);
  EXPECT_DOUBLE_EQ(resident.seconds_per_token(), 2 * (layers + head) / 1e8);

  // Without a budget the head stays.
  MemoryPlan plan = plan_of(*model.file, SessionMode::kStreamed);
  ASSERT_TRUE(plan.head_resident);
  const SessionCost streamed = cost_of(*model.file, plan);
  EXPECT_DOUBLE_EQ(streamed.load_seconds, head / 1e6);
  EXPECT_DOUBLE_EQ(streamed.decode_seconds_per_token, layers / 1e6);
  EXPECT_DOUBLE_EQ(streamed.multiply_seconds_per_token, resident.multiply_seconds_per_token);

  plan.head_resident = plan.embedding_resident = false;
  EXPECT_DOUBLE_EQ(cost_of(*model.file, plan).decode_seconds_per_token, (layers + head) / 1e6);
  plan.mode = SessionMode::kCached;
  plan.resident_layers = 1;
  EXPECT_DOUBLE_EQ(cost_of(*model.file, plan).load_seconds, layers / kLayers / 1e6);

  const SessionCost fused = cost_of(*model.file, plan_of(*model.file, SessionMode::kFused));
  EXPECT_DOUBLE_EQ(fused.seconds_per_token(), (layers + head) / 2e6);
}

TEST(SessionCost, OfAnUncompressedModelIsItsProducts) {
  const CostModel model = make_cost_model(codec_options(0, 0), false);
  const SessionCost cost = cost_of(*model.file, plan_of(*model.file, SessionMode::kStreamed));
  EXPECT_EQ(cost.weights_per_token + cost.resident_weights, 0u);
  EXPECT_DOUBLE_EQ(cost.seconds_per_token(), 2.0 * (kLayers * kLayerWeights + kHeadWeights) / 1e8);
}

TEST(SessionCost, OfLayersThatAreKeptBesideFusedOnes) {
  const CostModel model = make_cost_model(codec_options(0, 0));
  MemoryPlan plan = plan_of(*model.file, SessionMode::kFused);
  plan.resident_layers = 1;
  const SessionCost cost = cost_of(*model.file, plan);
  EXPECT_DOUBLE_EQ(cost.load_seconds, kLayerWeights / 1e6);
  EXPECT_DOUBLE_EQ(cost.decode_seconds_per_token, ((kLayers - 1) * kLayerWeights + kHeadWeights) / 2e6);
  EXPECT_DOUBLE_EQ(cost.multiply_seconds_per_token, 2.0 * kLayerWeights / 1e8);
}

TEST(SessionMode, AutoFusesWhereTheSynthesisIsLinear) {
  for (const uint32_t width : {0u, 16u}) {
    const CostModel model = make_cost_model(codec_options(width, width == 0 ? 0 : 1));
    SessionParams params;
    params.num_threads = 1;
    params.compute = Compute::kCpu;
    const auto free = plan_session(*model.file, params);
    ASSERT_TRUE(free.ok()) << free.status().message();
    EXPECT_EQ(free->mode, SessionMode::kResident);
    params.memory_budget_bytes = free->needed_resident - 1;
    const auto tight = plan_session(*model.file, params);
    ASSERT_TRUE(tight.ok()) << tight.status().message();
    EXPECT_LE(tight->total, params.memory_budget_bytes);
    EXPECT_EQ(tight->mode == SessionMode::kFused, width == 0) << session_mode_name(tight->mode);
    // Too little for either: the message names the mode that needs less.
    const bool fused_needs_less = width == 0 && free->needed_fused < free->needed_streamed;
    params.memory_budget_bytes = (fused_needs_less ? free->needed_fused : free->needed_streamed) - 1;
    const Status status = plan_session(*model.file, params).status();
    EXPECT_EQ(status.code(), StatusCode::kBudget);
    const char* const named = fused_needs_less ? "bytes in mode fused" : "bytes in mode streamed";
    EXPECT_NE(status.message().find(named), std::string::npos) << status.message();
  }
}

TEST(SessionRates, AreMeasuredWithTheRealDecoder) {
  const CostModel model = make_cost_model(codec_options(16, 1));
  const auto runner = make_thread_pool(2);
  const auto decoder = create_cpu_decoder(*model.file, *runner, detect_cpu_level());
  const auto rates = measure_session_rates(*model.file, **decoder, *runner);
  ASSERT_TRUE(rates.ok()) << rates.status().message();
  EXPECT_GT(rates->decoded_weights, 0);
  EXPECT_GT(rates->fused_weights, 0);
  EXPECT_GT(rates->memory_bytes, 0);
}

}  // namespace
}  // namespace nwc
