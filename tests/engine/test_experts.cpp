// Mixtures of experts: the choice of experts, and results that do not depend on how many of them are kept decoded.
#include <cmath>
#include <random>
#include <set>

#include "runtime/engine/router.h"
#include "tests/engine/family_fixture.h"

namespace nwc::test {
namespace {

struct Chosen {
  std::vector<uint32_t> experts;
  std::vector<float> weights;
};
Chosen choose(const ExpertSpec& spec, std::vector<float> logits, const float* bias = nullptr) {
  std::vector<uint32_t> order(spec.num_experts);
  std::vector<float> row(size_t{2} * spec.per_token + 1, 1.0f);
  choose_experts(spec, bias, logits.data(), order.data(), row.data());
  const Routed routed = routed_row(row.data(), spec.per_token);
  return {{routed.experts, routed.experts + spec.per_token}, {routed.weights, routed.weights + spec.per_token}};
}

TEST(Router, KindsOfWeights) {
  const std::vector<float> logits = {std::log(1.0f), std::log(4.0f), std::log(2.0f), std::log(3.0f)};
  ExpertSpec spec{.num_experts = 4, .per_token = 2, .intermediate_size = 8};
  const auto expect = [&](float second, float third) {
    const Chosen chosen = choose(spec, logits);
    EXPECT_EQ(chosen.experts, (std::vector<uint32_t>{1, 3}));
    EXPECT_NEAR(chosen.weights[0], second, 1e-6f);
    EXPECT_NEAR(chosen.weights[1], third, 1e-6f);
  };
  expect(0.4f, 0.3f);
  spec.normalized = true;
  expect(4.0f / 7, 3.0f / 7);
  spec.scale = 2.5f;
  expect(10.0f / 7, 7.5f / 7);
  spec = {.num_experts = 4, .per_token = 2, .intermediate_size = 8, .router = RouterKind::kTopKThenSoftmax};
  expect(4.0f / 7, 3.0f / 7);
  spec.router = RouterKind::kSigmoid;
  expect(0.8f, 0.75f);
  // Beside sigmoids a bias decides about the choice alone, else it is added to the logits.
  const float bias[] = {1, 0, 0, 0};
  EXPECT_EQ(choose(spec, logits, bias).experts, (std::vector<uint32_t>{0, 1}));
  EXPECT_NEAR(choose(spec, logits, bias).weights[0], 0.5f, 1e-6f);
  spec.router = RouterKind::kSoftmaxThenTopK;
  const float e = std::exp(1.0f);
  EXPECT_NEAR(choose(spec, logits, bias).weights[0], 4 / (e + 9), 1e-6f);
}

TEST(Router, EqualLogitsAndWhatIsNoNumber) {
  const ExpertSpec spec{.num_experts = 5, .per_token = 3, .intermediate_size = 8, .router = RouterKind::kSigmoid};
  EXPECT_EQ(choose(spec, {1, 1, 1, 1, 1}).experts, (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(choose(spec, {NAN, 1, NAN, 2, 0}).experts, (std::vector<uint32_t>{1, 3, 4}));
}

SessionParams params_of(const FamilyFixture& f, uint32_t batch) {
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  params.kv_dtype = Dtype::kF32;
  params.context = static_cast<uint32_t>(f.tokens.size());
  params.batch = batch;
  return params;
}

/// From room for a token's experts up to all of them, in steps of one expert: the same bits, and never more memory.
TEST(Experts, AnyBudgetGivesTheSameLogits) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  for (const char* const name : {"qwen2_moe", "qwen3_moe"}) {
    const FamilyFixture f = make_family(name);
    const PlainModel model = load_model(f.folder);
    for (const uint32_t batch : {1u, 7u}) {
      SessionParams params = params_of(f, batch);
      Bench all = make_bench(model, params);
      ASSERT_NE(all.session, nullptr);
      EXPECT_EQ(all.session->plan().expert_slots, all.session->plan().num_experts);
      const std::vector<float> wanted = all_logits(*all.session, f.tokens);
      params.mode = SessionMode::kCached;
      const uint64_t most = all.session->plan().total;
      params.memory_budget_bytes = all.session->plan().needed_streamed;
      std::set<uint32_t> sizes;
      for (; params.memory_budget_bytes < most; params.memory_budget_bytes += 9000) {
        Bench some = make_bench(model, params);
        ASSERT_NE(some.session, nullptr) << params.memory_budget_bytes;
        const MemoryPlan& plan = some.session->plan();
        EXPECT_LE(plan.total, params.memory_budget_bytes);
        sizes.insert(plan.expert_slots);
        EXPECT_EQ(all_logits(*some.session, f.tokens), wanted) << name << ", " << plan.expert_slots << " experts";
        const ExpertStats stats = some.session->expert_stats();
        EXPECT_GT(stats.misses, 0u);
        EXPECT_GT(stats.bytes_read, 0u);
        EXPECT_LE(stats.predicted_used, stats.predicted);
        EXPECT_LE(some.session->allocated_bytes(), plan.total);
      }
      EXPECT_GT(sizes.size(), 4u) << name;
      params.memory_budget_bytes = all.session->plan().needed_streamed - 1;
      const Result<MemoryPlan> none = plan_session(*all.file, params);
      EXPECT_EQ(none.status().code(), StatusCode::kBudget);
      EXPECT_NE(none.status().message().find(std::to_string(all.session->plan().needed_streamed)), std::string::npos)
          << none.status().message();
    }
  }
}

/// An expert that cannot be decoded fails the call, and the next one starts where this one did.
TEST(Experts, GoesOnAfterAnExpertFailed) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("mixtral");
  const PlainModel model = load_model(f.folder);
  SessionParams params = params_of(f, 4);
  params.mode = SessionMode::kCached;
  Bench reference = make_bench(model, params);
  ASSERT_NE(reference.session, nullptr);
  const std::vector<float> wanted = all_logits(*reference.session, f.tokens);
  params.memory_budget_bytes = reference.session->plan().needed_streamed + 20000;
  Bench bench = make_bench(model, params);
  ASSERT_NE(bench.session, nullptr);
  bench.decoder->fail_always("model.layers.2.block_sparse_moe.experts.3.w2.weight");
  std::vector<float> logits(f.tokens.size() * bench.session->vocab_size());
  const Status failed = bench.session->eval(f.tokens, LogitsWanted::kAll, logits);
  EXPECT_FALSE(failed.ok());
  EXPECT_EQ(bench.session->position(), 0u);
  bench.decoder->stop_failing();
  EXPECT_EQ(all_logits(*bench.session, f.tokens), wanted);
}

/// Where neither attention nor experts change the residual stream, each layer's router sees what it was asked about.
TEST(Experts, PredictionsAreCountedWhereTheyAreNeeded) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("mixtral");
  SessionParams params = params_of(f, 1);
  const PlainModel model = still_model(f);
  params.mode = SessionMode::kCached;
  params.memory_budget_bytes = make_bench(model, params).session->plan().needed_streamed;
  Bench bench = make_bench(model, params);
  ASSERT_NE(bench.session, nullptr);
  all_logits(*bench.session, f.tokens);
  const ExpertStats stats = bench.session->expert_stats();
  EXPECT_GT(stats.predicted, 0u);
  EXPECT_EQ(stats.predicted_used, stats.predicted);
}

/// A folder with the fixture's config.json and these tensors.
struct StoredTensor {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<uint64_t> shape;
  std::vector<uint8_t> bytes;
};
void write_folder(const std::string& folder, const nlohmann::json& config, const std::vector<StoredTensor>& stored) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << config.dump(1);
  std::vector<SafetensorsTensor> tensors;
  for (const StoredTensor& s : stored) {
    SafetensorsTensor& t = tensors.emplace_back();
    t.name = s.name;
    t.dtype = s.dtype;
    t.shape = s.shape;
  }
  const Status written = write_safetensors(folder + "/model.safetensors", tensors, {},
                                           [&](size_t index, std::vector<uint8_t>* bytes) -> Status {
                                             *bytes = stored[index].bytes;
                                             return {};
                                           });
  EXPECT_TRUE(written.ok()) << written.message();
}

/// GPT-OSS as it is published: experts as MXFP4, each output's weights behind each other, where a checkpoint in BF16
/// has them transposed. Both are the same model.
TEST(Experts, ReadsMxfp4) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("gpt_oss");
  nlohmann::json config = read_json(f.folder + "/config.json");
  auto bare = open_model_source(f.folder + "/model.safetensors");
  ASSERT_TRUE(bare.ok()) << bare.status().message();
  std::vector<StoredTensor> as_mxfp4, as_f32;
  std::mt19937 random(7);
  for (size_t i = 0; i < (*bare)->tensors().size(); ++i) {
    const SourceTensor& t = (*bare)->tensors()[i];
    StoredTensor plain{t.name, t.dtype, t.shape, std::vector<uint8_t>(t.num_bytes())};
    ASSERT_TRUE((*bare)->read_raw(i, plain.bytes).ok());
    if (t.shape.size() == 3) {
      const uint64_t experts = t.shape[0], in = t.shape[1], out = t.shape[2];
      ASSERT_EQ(in % 32, 0u) << t.name;
      StoredTensor blocks{t.name + "_blocks", Dtype::kU8, {experts, out, in / 32, 16}, {}};
      StoredTensor scales{t.name + "_scales", Dtype::kU8, {experts, out, in / 32}, {}};
      constexpr float kValues[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
      for (uint64_t e = 0; e < experts; ++e) {
        for (uint64_t o = 0; o < out; ++o) {
          for (uint64_t b = 0; b < in / 32; ++b) {
            scales.bytes.push_back(static_cast<uint8_t>(122 + random() % 4));
            for (uint64_t byte = 0; byte < 16; ++byte) {
              const auto pair = static_cast<uint8_t>(random());
              blocks.bytes.push_back(pair);
              for (uint64_t half = 0; half < 2; ++half) {
                const uint32_t code = half == 0 ? pair & 15u : pair >> 4;
                const float sign = (code & 8) != 0 ? -1.0f : 1.0f;
                const float value = sign * kValues[code & 7] * std::ldexp(1.0f, int{scales.bytes.back()} - 127);
                const uint64_t column = b * 32 + 2 * byte + half;
                store_le(&plain.bytes[((e * in + column) * out + o) * sizeof(float)], value);
              }
            }
          }
        }
      }
      as_mxfp4.push_back(std::move(blocks));
      as_mxfp4.push_back(std::move(scales));
    } else {
      as_mxfp4.push_back(plain);
    }
    as_f32.push_back(std::move(plain));
  }
  const TempDir scratch;
  write_folder(scratch.file("f32"), config, as_f32);
  config["quantization_config"] = {{"quant_method", "mxfp4"}, {"modules_to_not_convert", {"lm_head"}}};
  write_folder(scratch.file("mxfp4"), config, as_mxfp4);
  auto plain = open_model_source(scratch.file("f32")), packed = open_model_source(scratch.file("mxfp4"));
  ASSERT_TRUE(plain.ok() && packed.ok()) << plain.status().message() << packed.status().message();
  ASSERT_TRUE((*packed)->model().has_value());
  ASSERT_EQ((*plain)->tensors().size(), (*packed)->tensors().size());
  for (size_t i = 0; i < (*plain)->tensors().size(); ++i) {
    const SourceTensor& t = (*plain)->tensors()[i];
    const std::optional<size_t> same = (*packed)->find(t.name);
    ASSERT_TRUE(same) << t.name;
    EXPECT_EQ(t.shape, (*packed)->tensors()[*same].shape) << t.name;
    EXPECT_EQ((*plain)->read_f32(i).value(), (*packed)->read_f32(*same).value()) << t.name;
  }
  // Scales of another number of blocks.
  for (StoredTensor& t : as_mxfp4) {
    if (!t.name.ends_with("layers.2.mlp.experts.down_proj_scales")) continue;
    t.shape[1] -= 1;
    t.bytes.resize(t.shape[0] * t.shape[1] * t.shape[2]);
  }
  write_folder(scratch.file("damaged"), config, as_mxfp4);
  const auto damaged = open_model_source(scratch.file("damaged"));
  ASSERT_TRUE(damaged.ok()) << damaged.status().message();
  EXPECT_FALSE((*damaged)->model().has_value());
  EXPECT_NE((*damaged)->notes().front().text.find("down_proj_scales"), std::string::npos)
      << (*damaged)->notes().front().text;
}

}  // namespace
}  // namespace nwc::test
