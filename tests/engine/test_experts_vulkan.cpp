// Mixtures of experts on a Vulkan device: memory, budgets and forms of weights.
#include <set>

#include "runtime/decoder/vulkan/vulkan_decoder.h"
#include "tests/encode/synthetic_codec.h"
#include "tests/engine/family_fixture.h"
#include "tests/vulkan/vulkan_fixture.h"
#include "trainer/encode/encoder.h"

namespace nwc::test {
namespace {

/// One file on a device. All sessions share its decoder, so that kernels are compiled once.
struct OnDevice {
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<Runner> runner = make_thread_pool(2), decode_runner = make_thread_pool(2);
  std::unique_ptr<Decoder> decoder;
  testing::LogLines log;
  Status status;

  explicit OnDevice(std::unique_ptr<NwcFile> opened) : file(std::move(opened)) {
    VulkanOptions options;
    options.validation = true;
    auto made = create_vulkan_decoder(*file, *decode_runner, options, log.logger());
    status = made.status();
    if (made.ok()) decoder = std::move(made).value();
  }
  std::unique_ptr<Session> open(SessionParams params) {
    params.compute = Compute::kVulkan;
    auto made = Session::create(*file, *decoder, *runner, params, log.logger());
    EXPECT_TRUE(made.ok()) << made.status().message();
    return made.ok() ? std::move(made).value() : nullptr;
  }
};

SessionParams params_of(const FamilyFixture& f, uint32_t batch) {
  SessionParams params;
  params.weight_dtype = params.kv_dtype = Dtype::kF32;
  params.context = static_cast<uint32_t>(f.tokens.size());
  params.batch = batch;
  return params;
}

void expect_planned(const Session& session) {
  const MemoryPlan& plan = session.plan();
  EXPECT_EQ(session.allocated_bytes(), plan.weights + plan.layer_buffers + plan.kv_cache + plan.activations);
  EXPECT_EQ(session.allocated_bytes() + plan.decoder_scratch, plan.total);
}

/// From room for a token's experts up to all of them: the same bits, and the memory that the plan says.
TEST(ExpertsVulkan, AnyBudgetGivesTheSameLogits) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  for (const char* const name : {"qwen2_moe", "gpt_oss"}) {
    const FamilyFixture f = make_family(name);
    OnDevice device(make_file(load_model(f.folder)));
    NWC_NEED_DEVICE(device.status);
    for (const uint32_t batch : {1u, 7u}) {
      if (batch == 1 && f.name == "gpt_oss") continue;
      SessionParams params = params_of(f, batch);
      const std::unique_ptr<Session> all = device.open(params);
      ASSERT_NE(all, nullptr);
      EXPECT_EQ(all->plan().expert_slots, all->plan().num_experts);
      expect_planned(*all);
      const std::vector<float> wanted = all_logits(*all, f.tokens);
      EXPECT_EQ(all->expert_stats().misses, 0u);
      EXPECT_GT(all->expert_stats().hits, 0u);
      params.mode = SessionMode::kCached;
      const uint64_t least = all->plan().needed_streamed, most = all->plan().total;
      std::set<uint32_t> sizes;
      for (uint32_t step = 0; step < 3; ++step) {
        params.memory_budget_bytes = least + step * (most - least) / 3;
        const std::unique_ptr<Session> some = device.open(params);
        ASSERT_NE(some, nullptr) << params.memory_budget_bytes;
        EXPECT_LE(some->plan().total, params.memory_budget_bytes);
        expect_planned(*some);
        sizes.insert(some->plan().expert_slots);
        EXPECT_EQ(all_logits(*some, f.tokens), wanted) << name << ", " << some->plan().expert_slots << " experts";
        const ExpertStats stats = some->expert_stats();
        EXPECT_GT(stats.misses, 0u);
        EXPECT_GT(stats.bytes_read, 0u);
        EXPECT_LE(stats.predicted_used, stats.predicted);
      }
      EXPECT_EQ(sizes.size(), 3u) << name;
      EXPECT_EQ(*sizes.begin(), device.file->model()->block().experts.per_token);
      params.compute = Compute::kVulkan;
      params.memory_budget_bytes = least - 1;
      const Result<MemoryPlan> none = plan_session(*device.file, params);
      EXPECT_EQ(none.status().code(), StatusCode::kBudget);
      EXPECT_NE(none.status().message().find(std::to_string(least)), std::string::npos) << none.status().message();
    }
    EXPECT_TRUE(device.log.errors.empty()) << device.log.errors.front();
  }
}

/// The next layer's experts are asked for early, as on the CPU.
TEST(ExpertsVulkan, PredictionsAreCountedWhereTheyAreNeeded) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("mixtral");
  OnDevice device(make_file(still_model(f)));
  NWC_NEED_DEVICE(device.status);
  SessionParams params = params_of(f, 1);
  params.mode = SessionMode::kCached;
  params.memory_budget_bytes = device.open(params)->plan().needed_streamed;
  const std::unique_ptr<Session> session = device.open(params);
  ASSERT_NE(session, nullptr);
  all_logits(*session, f.tokens);
  EXPECT_GT(session->expert_stats().predicted, 0u);
  EXPECT_EQ(session->expert_stats().predicted_used, session->expert_stats().predicted);
}

/// An expert that cannot be decoded fails the call, and the next one starts where this one did.
TEST(ExpertsVulkan, GoesOnAfterAnExpertFailed) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("mixtral");
  OnDevice device(make_file(load_model(f.folder)));
  NWC_NEED_DEVICE(device.status);
  SessionParams params = params_of(f, 4);
  const std::unique_ptr<Session> reference = device.open(params);
  ASSERT_NE(reference, nullptr);
  const std::vector<float> wanted = all_logits(*reference, f.tokens);

  // The same file in memory that changes while it is open.
  std::vector<uint8_t> bytes(device.file->reader().size());
  ASSERT_TRUE(device.file->reader().read(0, bytes).ok());
  OnDevice damaged(std::move(NwcFile::open(make_memory_reader(bytes)).value()));
  params.memory_budget_bytes = damaged.open(params)->plan().needed_streamed + 20000;
  params.mode = SessionMode::kCached;
  const std::unique_ptr<Session> session = damaged.open(params);
  ASSERT_NE(session, nullptr);
  EXPECT_LT(session->plan().expert_slots, session->plan().num_experts);
  const size_t expert = *damaged.file->find("model.layers.2.block_sparse_moe.experts.3.w2.weight");
  uint8_t& byte = bytes[damaged.file->data_offset() + damaged.file->tensors()[expert].offset];
  byte ^= 1;
  std::vector<float> logits(f.tokens.size() * session->vocab_size());
  EXPECT_EQ(session->eval(f.tokens, LogitsWanted::kAll, logits).code(), StatusCode::kChecksum);
  EXPECT_EQ(session->position(), 0u);
  byte ^= 1;
  EXPECT_EQ(all_logits(*session, f.tokens), wanted);
}

/// Coded experts in every form, in every mode.
TEST(ExpertsVulkan, EveryFormAgreesWithTheCpu) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("qwen2_moe");
  const std::string path = f.folder + ".nwc";
  auto source = open_model_source(f.folder);
  ASSERT_TRUE(source.ok()) << source.status().message();
  CompressOptions options;
  options.bits = 4;
  options.threads = 2;
  options.min_elements = 64;
  ASSERT_TRUE(compress_model(**source, nwc::testing::synthetic_codec(), options, path, {}, {}).ok());
  auto reader = open_file_reader(path);
  ASSERT_TRUE(reader.ok());
  OnDevice device(std::move(NwcFile::open(std::move(reader).value()).value()));
  NWC_NEED_DEVICE(device.status);
  const auto cpu = std::move(create_cpu_decoder(*device.file, *device.runner, detect_cpu_level())).value();
  struct Form {
    Dtype dtype;
    IntegerWeights integers;
    std::vector<SessionMode> modes;  ///< beside resident
  };
  const std::vector<Form> forms = {
      {Dtype::kF16, IntegerWeights::kNone, {SessionMode::kStreamed, SessionMode::kCached, SessionMode::kFused}},
      {Dtype::kF32, IntegerWeights::kQ8, {SessionMode::kCached}},
      {Dtype::kF32, IntegerWeights::kPacked, {SessionMode::kStreamed, SessionMode::kFused}}};
  for (const Form& form : forms) {
    SessionParams params = params_of(f, 12);
    params.weight_dtype = form.dtype;
    auto reference = Session::create(*device.file, *cpu, *device.runner, params);  // floats: no rounding of inputs
    ASSERT_TRUE(reference.ok()) << reference.status().message();
    const std::vector<float> expected = all_logits(**reference, f.tokens);
    float largest = 0;
    for (const float v : expected) largest = std::max(largest, std::abs(v));
    params.integers = form.integers;
    const std::unique_ptr<Session> resident = device.open(params);
    ASSERT_NE(resident, nullptr);
    EXPECT_EQ(resident->plan().integers, form.integers);
    expect_planned(*resident);
    const std::vector<float> logits = all_logits(*resident, f.tokens);
    EXPECT_LT(largest_difference(logits, expected), 1e-4f * largest);
    const MemoryPlan plan = resident->plan();
    for (const SessionMode mode : form.modes) {
      params.mode = mode;
      params.memory_budget_bytes = mode == SessionMode::kStreamed ? plan.needed_streamed
                                   : mode == SessionMode::kCached ? (plan.needed_streamed + plan.total) / 2
                                                                  : plan.needed_fused;
      const std::unique_ptr<Session> session = device.open(params);
      ASSERT_NE(session, nullptr);
      EXPECT_EQ(session->plan().integers, form.integers);
      if (mode == SessionMode::kStreamed) {
        EXPECT_LT(session->plan().expert_slots, plan.num_experts);
      }
      EXPECT_LE(session->allocated_bytes() + session->plan().decoder_scratch, session->plan().total);
      // Embedding and head, where they do not stay, are f32 beside integers; fused weights are not rounded to f16.
      const bool same = form.integers == IntegerWeights::kNone && mode != SessionMode::kFused;
      const std::vector<float> got = all_logits(*session, f.tokens);
      if (same) {
        EXPECT_EQ(got, logits) << session_mode_name(mode);
      }
      EXPECT_LT(largest_difference(got, logits), 1e-4f * largest) << session_mode_name(mode);
      std::vector<float> single(session->vocab_size());
      session->reset();
      constexpr size_t kSingle = 12;
      for (size_t t = 0; t < kSingle; ++t)
        ASSERT_TRUE(session->eval(std::span(f.tokens).subspan(t, 1), LogitsWanted::kLast, single).ok());
      const std::span<const float> last = std::span(logits).subspan((kSingle - 1) * single.size(), single.size());
      const float allowed = mode == SessionMode::kFused && form.dtype == Dtype::kF16 ? 2e-2f : 1e-4f;
      EXPECT_LT(largest_difference(single, last), allowed * largest) << session_mode_name(mode) << ", one by one";
    }
  }
  EXPECT_TRUE(device.log.errors.empty()) << device.log.errors.front();
}

}  // namespace
}  // namespace nwc::test
