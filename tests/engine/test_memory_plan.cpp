// The plan is what gets allocated, and the budget is hard.
#include <fstream>

#include "tests/engine/model_fixture.h"

#if defined(__GLIBC__)  // known once any standard header has been included
#include <malloc.h>
#endif

namespace nwc::test {
namespace {

uint64_t held(const MemoryPlan& plan) { return plan.weights + plan.layer_buffers + plan.kv_cache + plan.activations; }

TEST(MemoryPlan, IsWhatGetsAllocated) {
  for (bool tied : {true, false}) {
    ModelRecord record = small_record();
    record.tied_embeddings = tied;
    const PlainModel model = random_model(record, 1);
    const std::unique_ptr<NwcFile> file = make_file(model);
    CountingDecoder decoder(*file);
    auto runner = make_thread_pool(3);
    SessionParams params;
    params.num_threads = 3;
    const Result<MemoryPlan> unbounded = plan_session(*file, params);
    ASSERT_TRUE(unbounded.ok());
    EXPECT_EQ(unbounded->mode, SessionMode::kResident);
    EXPECT_EQ(unbounded->context, 300u);
    EXPECT_EQ(unbounded->compressed_file, file->reader().size());
    EXPECT_LT(unbounded->needed_streamed, unbounded->needed_resident);
    EXPECT_LE(unbounded->needed_resident, unbounded->total);

    // Every budget from plenty to too little: the total obeys it, and more budget never means fewer resident layers.
    uint32_t last_layers = record.num_layers;
    bool modes[4] = {};
    for (uint64_t budget = unbounded->total; budget >= unbounded->needed_streamed; budget -= 997) {
      params.memory_budget_bytes = budget;
      auto session = Session::create(*file, decoder, *runner, params);
      ASSERT_TRUE(session.ok()) << session.status().message();
      const MemoryPlan& plan = (*session)->plan();
      EXPECT_LE(plan.total, budget);
      EXPECT_EQ((*session)->allocated_bytes(), held(plan));
      EXPECT_EQ(plan.total, held(plan) + plan.decoder_scratch);
      EXPECT_EQ(plan.total, plan_session(*file, params)->total);
      if (plan.batch >= 128) {
        EXPECT_LE(plan.resident_layers, last_layers);
        last_layers = plan.resident_layers;
      }
      modes[static_cast<size_t>(plan.mode)] = true;
    }
    EXPECT_TRUE(modes[1] && modes[2] && modes[3]) << "resident, streamed and cached all occur";

    params.memory_budget_bytes = unbounded->needed_streamed;
    EXPECT_TRUE(plan_session(*file, params).ok());
    params.memory_budget_bytes -= 1;
    const Status status = plan_session(*file, params).status();
    EXPECT_EQ(status.code(), StatusCode::kBudget);
    EXPECT_NE(status.message().find("a context of"), std::string::npos) << status.message();
    EXPECT_EQ(Session::create(*file, decoder, *runner, params).status().code(), StatusCode::kBudget);
    params.memory_budget_bytes = 1000;
    EXPECT_NE(plan_session(*file, params).status().message().find("no context would fit"), std::string::npos);
    params.memory_budget_bytes = unbounded->needed_resident - 1;
    params.mode = SessionMode::kResident;
    const Status resident = plan_session(*file, params).status();
    EXPECT_EQ(resident.code(), StatusCode::kBudget);
    EXPECT_NE(resident.message().find("streamed needs"), std::string::npos) << resident.message();
  }
}

TEST(MemoryPlan, ContextNamedInTheMessageFits) {
  const std::unique_ptr<NwcFile> file = make_file(random_model(small_record(), 2));
  SessionParams params;
  params.num_threads = 1;
  params.memory_budget_bytes = plan_session(*file, params)->needed_streamed - 5000;
  const std::string message = plan_session(*file, params).status().message();
  const size_t at = message.find("a context of ");
  ASSERT_NE(at, std::string::npos) << message;
  params.context = static_cast<uint32_t>(std::stoul(message.substr(at + 13)));
  EXPECT_TRUE(plan_session(*file, params).ok());
  params.context += 1;
  EXPECT_FALSE(plan_session(*file, params).ok());
}

TEST(MemoryPlan, ChecksParameters) {
  const std::unique_ptr<NwcFile> file = make_file(random_model(small_record(), 3));
  SessionParams params;
  params.context = 301;
  EXPECT_EQ(plan_session(*file, params).status().code(), StatusCode::kInvalidArgument);
  params = {};
  params.weight_dtype = Dtype::kF64;
  EXPECT_EQ(plan_session(*file, params).status().code(), StatusCode::kUnsupported);
  params = {};
  params.kv_dtype = Dtype::kBf16;
  EXPECT_EQ(plan_session(*file, params).status().code(), StatusCode::kUnsupported);
  params = {};
  const uint64_t without = plan_session(*file, params)->total;
  params.file_in_memory = true;
  EXPECT_EQ(plan_session(*file, params)->total, without + file->reader().size());
  ModelRecord record = small_record();
  record.max_positions = 1u << 24;
  const std::unique_ptr<NwcFile> endless = make_file(random_model(record, 3));
  EXPECT_EQ(plan_session(*endless, {})->context, kDefaultContextCap);
}

/// Multiplies all weights of a tensor.
void scale_tensor(PlainModel* model, const std::string& name, float factor) {
  PlainTensor& t = model->tensors.at(name);
  ASSERT_EQ(t.dtype, Dtype::kF32);
  for (size_t i = 0; i < t.bytes.size(); i += 4)
    store_le(t.bytes.data() + i, factor * load_le<float>(t.bytes.data() + i));
}

// Weights that f16 cannot hold: a norm makes up for a factor of the matrix behind it, so that the network stays the
// same.
TEST(MemoryPlan, TakesBf16WhereF16CannotHoldTheWeights) {
  const PlainModel good = random_model(small_record(), 6);
  const std::vector<uint32_t> tokens = random_tokens(20, 101, 7);
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  Bench exact = make_bench(good, params);
  const std::vector<float> expected = all_logits(*exact.session, tokens);
  params.weight_dtype = Dtype::kF16;
  params.fit_weight_dtype = true;
  const auto good_plan = plan_session(*make_file(good), params);
  ASSERT_TRUE(good_plan.ok());
  EXPECT_EQ(good_plan->weight_dtype, Dtype::kF16);
  EXPECT_EQ(good_plan->weight_warning, "");
  for (const float factor : {1e-9f, 1e-6f, 1e7f}) {
    PlainModel bad = good;
    scale_tensor(&bad, "model.layers.2.post_attention_layernorm.weight", 1 / factor);
    for (const char* matrix : {"gate_proj", "up_proj"})
      scale_tensor(&bad, std::string("model.layers.2.mlp.") + matrix + ".weight", factor);
    const std::unique_ptr<NwcFile> file = make_file(bad);
    const auto plan = plan_session(*file, params);
    ASSERT_TRUE(plan.ok());
    EXPECT_EQ(plan->weight_dtype, Dtype::kBf16) << factor;
    EXPECT_NE(plan->weight_warning.find("model.layers.2.mlp."), std::string::npos) << plan->weight_warning;
    EXPECT_EQ(plan->total, good_plan->total);
    Bench bench = make_bench(bad, params);
    EXPECT_EQ(bench.session->plan().weight_dtype, Dtype::kBf16);
    EXPECT_LT(largest_difference(all_logits(*bench.session, tokens), expected), 0.2f) << factor;

    SessionParams asked = params;
    asked.fit_weight_dtype = false;
    const auto kept = plan_session(*file, asked);
    ASSERT_TRUE(kept.ok());
    EXPECT_EQ(kept->weight_dtype, Dtype::kF16) << "who asks for f16 gets it";
    EXPECT_NE(kept->weight_warning, "");
    asked.weight_dtype = Dtype::kF32;
    EXPECT_EQ(plan_session(*file, asked)->weight_warning, "");
  }
}

/// Anonymous memory of this process in bytes now, or 0 where the system does not tell. (A mapped file is not counted.)
uint64_t anonymous_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("RssAnon:", 0) == 0) return std::stoull(line.substr(8)) * 1024;
  }
  return 0;
}

/// Looks at the process's memory at every decoding.
class WatchingDecoder final : public Decoder {
 public:
  explicit WatchingDecoder(const NwcFile& file) : inner_(file) {}
  const std::string& name() const override { return inner_.name(); }
  Status decode(const DecodeRequest& request) override {
    const Status status = inner_.decode(request);
    peak = std::max(peak, anonymous_memory());
    return status;
  }
  Status decode_values(size_t tensor, std::span<int16_t> out) override { return inner_.decode_values(tensor, out); }
  uint64_t peak = 0;

 private:
  CountingDecoder inner_;
};

TEST(MemoryPlan, PeakMemoryObeysABudgetThatResidentWeightsWouldBreak) {
#if defined(NWC_SANITIZED)
  GTEST_SKIP() << "sanitizers change what memory is resident";
#endif
  if (anonymous_memory() == 0) GTEST_SKIP() << "no /proc/self/status here";
  ModelRecord record = small_record();
  record.hidden_size = 256;
  record.block().intermediate_size = 512;
  record.num_layers = 24;
  record.max_positions = 64;
  const std::unique_ptr<NwcFile> file = make_file(random_model(record, 4));
  auto runner = make_thread_pool(1);
  SessionParams params;
  params.num_threads = 1;
  params.weight_dtype = Dtype::kF32;
  params.batch = 16;
  const Result<MemoryPlan> free_plan = plan_session(*file, params);
  ASSERT_TRUE(free_plan.ok());
  constexpr uint64_t kTolerance = 4u << 20;  // stacks, allocator, test
  const auto growth = [&](uint64_t budget) {
    params.memory_budget_bytes = budget;
#if defined(__GLIBC__)
    malloc_trim(0);  // memory that earlier steps freed must not hide what this one takes
#endif
    const uint64_t before = anonymous_memory();
    WatchingDecoder decoder(*file);
    auto session = Session::create(*file, decoder, *runner, params);
    EXPECT_TRUE(session.ok());
    std::vector<float> logits(record.vocab_size);
    EXPECT_TRUE((*session)->eval(random_tokens(40, record.vocab_size, 5), LogitsWanted::kLast, logits).ok());
    session = Status(StatusCode::kInternal, "ends the session, and with it the thread that writes decoder.peak");
    return decoder.peak - before;
  };
  const uint64_t budget = free_plan->needed_streamed;
  ASSERT_GT(free_plan->weights, budget + 2 * kTolerance) << "the model is too small for this test";
  EXPECT_LE(growth(budget), budget + kTolerance);
  EXPECT_GE(growth(0) + kTolerance, free_plan->weights) << "the measurement must be able to see memory";
}

}  // namespace
}  // namespace nwc::test
