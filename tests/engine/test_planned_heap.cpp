// A session takes no more from the heap than its plan says, in every mode, at the least budget.
#include "runtime/engine/weight_type.h"
#include "tests/engine/coded_model.h"
#include "tests/heap_watch.h"

namespace nwc::test {
namespace {

struct Way {
  SessionMode mode;
  IntegerWeights integers;
};
constexpr Way kWays[] = {
    {SessionMode::kResident, IntegerWeights::kNone},   {SessionMode::kStreamed, IntegerWeights::kNone},
    {SessionMode::kFused, IntegerWeights::kNone},      {SessionMode::kResident, IntegerWeights::kQ8},
    {SessionMode::kResident, IntegerWeights::kPacked}, {SessionMode::kStreamed, IntegerWeights::kPacked},
    {SessionMode::kFused, IntegerWeights::kPacked},
};

TEST(PlannedHeap, SessionsStayWithinTheirBudget) {
  constexpr uint64_t kSlack = 64u << 10;  // objects, names, the sequence
  const std::vector<uint32_t> tokens = random_tokens(20, 1024, 1);
  const std::vector<uint8_t> network = network_compressed_bytes();
  for (const std::vector<uint8_t>* bytes : {&compressed_bytes(), &network}) {
    auto opened = NwcFile::open(make_memory_reader(*bytes));
    ASSERT_TRUE(opened.ok());
    const NwcFile& file = **opened;
    auto runner = make_thread_pool(2);
    SessionParams params;
    params.num_threads = 2;
    params.context = 64;
    for (const auto& [mode, integers] : kWays) {
      params.mode = mode;
      params.integers = integers;
      params.memory_budget_bytes = 0;
      const auto free_plan = plan_session(file, params);
      ASSERT_TRUE(free_plan.ok());
      params.memory_budget_bytes = mode == SessionMode::kResident   ? free_plan->needed_resident
                                   : mode == SessionMode::kStreamed ? free_plan->needed_streamed
                                                                    : free_plan->needed_fused;
      std::vector<float> logits(1024);
      const uint64_t growth = heap_growth([&] {
        auto decoder = create_cpu_decoder(file, *runner, detect_cpu_level());
        ASSERT_TRUE(decoder.ok());
        auto session = Session::create(file, **decoder, *runner, params);
        ASSERT_TRUE(session.ok()) << session.status().message();
        ASSERT_TRUE((*session)->eval(tokens, LogitsWanted::kLast, logits).ok());
        ASSERT_TRUE((*session)->eval(std::span(tokens).first(1), LogitsWanted::kLast, logits).ok());
      });
      EXPECT_LE(growth, params.memory_budget_bytes + kSlack)
          << session_mode_name(mode) << ", " << info_of(weight_type(integers, Dtype::kF16)).name;
    }
  }
}

}  // namespace
}  // namespace nwc::test
