// Mixtures of experts: the choice of experts, and results that do not depend on how many of them are kept decoded.
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

}  // namespace
}  // namespace nwc::test
