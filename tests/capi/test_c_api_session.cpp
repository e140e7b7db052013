// Sessions through the public interface: plans, evaluation, generation, cancelling.
#include <gtest/gtest.h>
#include <nwc/nwc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "tests/capi/c_api_fixture.h"

namespace {

using nwc::test::zeroed;

class CApiSession : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(nwc_model_open_path(NWC_TEST_MODEL, &detail_, &model_), NWC_STATUS_OK) << error_;
    size_t count = 0;
    const std::string text = "It was the best of times, it was the worst of times";
    tokens_.resize(nwc_tokenize_bound(text.size()));
    ASSERT_EQ(nwc_tokenize(model_, text.data(), text.size(), 0, tokens_.data(), tokens_.size(), &count), NWC_STATUS_OK);
    tokens_.resize(count);
    ASSERT_GT(count, 4u);
  }
  void TearDown() override {
    nwc_session_destroy(session_);
    nwc_model_destroy(model_);
  }
  static nwc_session_params params() {
    nwc_session_params p = zeroed<nwc_session_params>();
    p.backend = NWC_BACKEND_CPU;
    p.num_threads = 2;
    p.context = 64;
    return p;
  }
  void create(const nwc_session_params& p) {
    nwc_session_destroy(session_);
    session_ = nullptr;
    ASSERT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, &detail_, &session_), NWC_STATUS_OK) << error_;
  }
  nwc_session_plan plan_for(const nwc_session_params& p) {
    nwc_session_plan plan = zeroed<nwc_session_plan>();
    EXPECT_EQ(nwc_session_make_plan(model_, &p, &detail_, &plan), NWC_STATUS_OK) << error_;
    return plan;
  }
  std::vector<float> last_logits() {
    std::vector<float> logits(kVocab);
    EXPECT_EQ(nwc_session_eval(session_, tokens_.data(), tokens_.size(), NWC_LOGITS_LAST, logits.data(), logits.size()),
              NWC_STATUS_OK)
        << nwc_session_last_error(session_);
    return logits;
  }
  struct Drawn {
    std::vector<uint32_t> tokens;
    std::string text;
    size_t stop_after = SIZE_MAX;
  };
  static int on_token(void* user, uint32_t token, const char* text, size_t length) {
    auto& drawn = *static_cast<Drawn*>(user);
    drawn.tokens.push_back(token);
    drawn.text.append(text, length);
    return drawn.tokens.size() >= drawn.stop_after ? 1 : 0;
  }

  static constexpr uint32_t kVocab = 1024;
  nwc_model* model_ = nullptr;
  nwc_session* session_ = nullptr;
  std::vector<uint32_t> tokens_;
  char error_[512] = "";
  nwc_error_detail detail_{error_, sizeof error_};
};

TEST_F(CApiSession, PlansAddUpAndAreKept) {
  nwc_session_params p = params();
  p.mode = NWC_WEIGHTS_RESIDENT;
  const nwc_session_plan resident = plan_for(p);
  EXPECT_EQ(resident.mode, static_cast<uint32_t>(NWC_WEIGHTS_RESIDENT));
  EXPECT_EQ(resident.num_layers, 4u);
  EXPECT_EQ(resident.num_resident_layers, 4u);
  EXPECT_EQ(resident.context, 64u);
  EXPECT_EQ(resident.streamed_bytes_per_batch, 0u);
  EXPECT_EQ(resident.total_bytes, resident.weight_bytes + resident.stream_buffer_bytes + resident.kv_cache_bytes +
                                      resident.activation_bytes + resident.decoder_bytes);
  p.mode = NWC_WEIGHTS_STREAMED;
  const nwc_session_plan streamed = plan_for(p);
  EXPECT_EQ(streamed.num_resident_layers, 0u);
  EXPECT_GT(streamed.streamed_bytes_per_batch, 0u);
  EXPECT_LT(streamed.weight_bytes, resident.weight_bytes);
  create(p);
  nwc_session_plan kept = zeroed<nwc_session_plan>();
  ASSERT_EQ(nwc_session_get_plan(session_, &kept), NWC_STATUS_OK);
  EXPECT_EQ(kept.total_bytes, streamed.total_bytes);
  EXPECT_EQ(kept.num_experts, 0u);
  nwc_expert_stats experts = zeroed<nwc_expert_stats>();
  ASSERT_EQ(nwc_session_get_expert_stats(session_, &experts), NWC_STATUS_OK);
  EXPECT_EQ(experts.hits + experts.misses + experts.bytes_read, 0u);

  p = params();
  p.mode = NWC_WEIGHTS_STREAMED;
  p.memory_budget_bytes = streamed.needed_streamed_bytes - 1;
  nwc_session_plan none = zeroed<nwc_session_plan>();
  EXPECT_EQ(nwc_session_make_plan(model_, &p, &detail_, &none), NWC_STATUS_BUDGET);
  EXPECT_STRNE(error_, "");
  nwc_session* refused = nullptr;
  EXPECT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, &detail_, &refused), NWC_STATUS_BUDGET);
  EXPECT_EQ(refused, nullptr);
  p.memory_budget_bytes = streamed.needed_streamed_bytes;
  EXPECT_LE(plan_for(p).total_bytes, p.memory_budget_bytes);
  p.mode = NWC_WEIGHTS_FUSED;
  p.memory_budget_bytes = streamed.needed_fused_bytes;
  EXPECT_LE(plan_for(p).total_bytes, p.memory_budget_bytes);
  p.memory_budget_bytes -= 1;
  EXPECT_EQ(nwc_session_make_plan(model_, &p, &detail_, &none), NWC_STATUS_BUDGET);
}

TEST_F(CApiSession, PlansSayWhyWeightsAreHeldAsTheyAre) {
  nwc_session_params p = params();
  p.mode = NWC_WEIGHTS_RESIDENT;
  const nwc_session_plan chosen = plan_for(p);
  EXPECT_EQ(chosen.weight_choice, NWC_WEIGHT_CHOICE_FASTER);
  EXPECT_TRUE(chosen.weight_precision == NWC_PRECISION_PACKED || chosen.weight_precision == NWC_PRECISION_Q8);
  EXPECT_EQ(chosen.weights_requantized, 0u);
  EXPECT_GT(chosen.packed_weight_bytes, 0u);
  EXPECT_LT(chosen.packed_weight_bytes, chosen.q8_weight_bytes);
  EXPECT_LT(chosen.q8_weight_bytes, chosen.f16_weight_bytes);
  EXPECT_GT(chosen.q8_weights_per_second, 0);
  EXPECT_GT(chosen.packed_weights_per_second, 0);
  const bool q8 = chosen.q8_weights_per_second > 1.05 * chosen.packed_weights_per_second;
  EXPECT_EQ(chosen.weight_precision, q8 ? NWC_PRECISION_Q8 : NWC_PRECISION_PACKED);
  create(p);
  nwc_session_plan kept = zeroed<nwc_session_plan>();
  ASSERT_EQ(nwc_session_get_plan(session_, &kept), NWC_STATUS_OK);
  EXPECT_EQ(kept.weight_precision, chosen.weight_precision);
  EXPECT_EQ(kept.weight_choice, chosen.weight_choice);
  EXPECT_EQ(kept.q8_weights_per_second, chosen.q8_weights_per_second) << "measured once a process";
  const std::vector<float> logits = last_logits();
  for (const nwc_precision asked : {NWC_PRECISION_Q8, NWC_PRECISION_PACKED}) {
    p.weight_precision = asked;
    const nwc_session_plan plan = plan_for(p);
    EXPECT_EQ(plan.weight_choice, NWC_WEIGHT_CHOICE_ASKED);
    EXPECT_EQ(plan.weight_precision, asked);
    EXPECT_EQ(plan.q8_weights_per_second, 0) << "not measured";
    EXPECT_EQ(plan.q8_weight_bytes, chosen.q8_weight_bytes);
    create(p);
    EXPECT_EQ(last_logits(), logits);
  }
  p.weight_precision = NWC_PRECISION_F16;
  EXPECT_EQ(plan_for(p).weight_choice, NWC_WEIGHT_CHOICE_ASKED);
  EXPECT_EQ(plan_for(p).q8_weight_bytes, 0u);
  p.weight_precision = NWC_PRECISION_DEFAULT;
  p.mode = NWC_WEIGHTS_STREAMED;
  EXPECT_EQ(plan_for(p).weight_choice, NWC_WEIGHT_CHOICE_SMALLER);
}

TEST_F(CApiSession, EveryModeAnswersTheSame) {
  nwc_session_params p = params();
  p.mode = NWC_WEIGHTS_RESIDENT;
  create(p);
  const std::vector<float> want = last_logits();
  for (const float l : want) ASSERT_TRUE(std::isfinite(l));
  p.mode = NWC_WEIGHTS_STREAMED;
  create(p);
  EXPECT_EQ(last_logits(), want);
  p.mode = NWC_WEIGHTS_AUTO;
  p.num_threads = 1;
  create(p);
  EXPECT_EQ(last_logits(), want);
}

TEST_F(CApiSession, PositionTruncateAndAllLogits) {
  create(params());
  const uint32_t n = static_cast<uint32_t>(tokens_.size());
  std::vector<float> all(n * kVocab);
  ASSERT_EQ(nwc_session_eval(session_, tokens_.data(), n, NWC_LOGITS_ALL, all.data(), all.size()), NWC_STATUS_OK);
  EXPECT_EQ(nwc_session_position(session_), n);
  ASSERT_EQ(nwc_session_truncate(session_, n - 1), NWC_STATUS_OK);
  std::vector<float> last(kVocab);
  ASSERT_EQ(nwc_session_eval(session_, &tokens_.back(), 1, NWC_LOGITS_LAST, last.data(), last.size()), NWC_STATUS_OK);
  for (uint32_t v = 0; v < kVocab; ++v) ASSERT_NEAR(last[v], all[(n - 1) * kVocab + v], 2e-3) << v;
  EXPECT_EQ(nwc_session_truncate(session_, n + 1), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_STRNE(nwc_session_last_error(session_), "");
  EXPECT_EQ(nwc_session_truncate(session_, 0), NWC_STATUS_OK);
  EXPECT_EQ(nwc_session_position(session_), 0u);
  EXPECT_EQ(nwc_session_eval(session_, tokens_.data(), n, NWC_LOGITS_NONE, nullptr, 0), NWC_STATUS_OK);
}

TEST_F(CApiSession, SequencesAreKeptAndTakenUp) {
  nwc::test::Session first, second;
  const nwc_session_params p = params();
  ASSERT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, nullptr, &first.p), NWC_STATUS_OK);
  ASSERT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, nullptr, &second.p), NWC_STATUS_OK);
  const uint32_t prompt[] = {1, 2, 3, 4, 5}, next = 6;
  ASSERT_EQ(nwc_session_eval(first, prompt, 5, NWC_LOGITS_NONE, nullptr, 0), NWC_STATUS_OK);
  size_t size = 0;
  EXPECT_EQ(nwc_session_state_size(first, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_session_state_size(nullptr, &size), NWC_STATUS_INVALID_ARGUMENT);
  ASSERT_EQ(nwc_session_state_size(first, &size), NWC_STATUS_OK);
  std::vector<char> state(size);
  EXPECT_EQ(nwc_session_save_state(first, state.data(), size - 1), NWC_STATUS_BUFFER_TOO_SMALL);
  EXPECT_EQ(nwc_session_save_state(first, nullptr, size), NWC_STATUS_INVALID_ARGUMENT);
  ASSERT_EQ(nwc_session_save_state(first, state.data(), size), NWC_STATUS_OK);
  EXPECT_EQ(nwc_session_load_state(second, nullptr, size), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_session_load_state(second, state.data(), size - 1), NWC_STATUS_TRUNCATED);
  EXPECT_EQ(nwc_session_load_state(second, "nothing of the kind", 19), NWC_STATUS_UNRECOGNIZED);
  EXPECT_NE(std::string(nwc_session_last_error(second)), "");
  ASSERT_EQ(nwc_session_load_state(second, state.data(), size), NWC_STATUS_OK) << nwc_session_last_error(second);
  EXPECT_EQ(nwc_session_position(second), 5u);
  std::vector<float> expected(kVocab), got(kVocab);
  ASSERT_EQ(nwc_session_eval(first, &next, 1, NWC_LOGITS_LAST, expected.data(), expected.size()), NWC_STATUS_OK);
  ASSERT_EQ(nwc_session_eval(second, &next, 1, NWC_LOGITS_LAST, got.data(), got.size()), NWC_STATUS_OK);
  EXPECT_EQ(got, expected);
}

TEST_F(CApiSession, EvaluationIsReportedAndCancelled) {
  nwc_session_params p = params();
  p.batch = 4;
  create(p);
  struct Calls {
    uint64_t count = 0, last_done = 0, last_total = 0;
    int result = 0;
  } calls;
  const auto report = [](void* user, uint64_t done, uint64_t total) {
    auto& c = *static_cast<Calls*>(user);
    ++c.count;
    c.last_done = done;
    c.last_total = total;
    return c.result;
  };
  EXPECT_EQ(nwc_session_set_progress(nullptr, report, &calls), NWC_STATUS_INVALID_ARGUMENT);
  ASSERT_EQ(nwc_session_set_progress(session_, report, &calls), NWC_STATUS_OK);
  const std::vector<float> want = last_logits();
  EXPECT_EQ(calls.count, (tokens_.size() + 3) / 4 + 1);
  EXPECT_EQ(calls.last_done, tokens_.size());
  EXPECT_EQ(calls.last_total, tokens_.size());
  calls.result = 1;
  const uint32_t n = nwc_session_position(session_);
  EXPECT_EQ(nwc_session_eval(session_, tokens_.data(), tokens_.size(), NWC_LOGITS_NONE, nullptr, 0),
            NWC_STATUS_CANCELLED);
  EXPECT_EQ(nwc_session_position(session_), n);
  Drawn drawn;
  EXPECT_EQ(nwc_session_generate(session_, tokens_.data(), 1, nullptr, on_token, &drawn, nullptr),
            NWC_STATUS_CANCELLED);
  ASSERT_EQ(nwc_session_set_progress(session_, nullptr, nullptr), NWC_STATUS_OK);
  ASSERT_EQ(nwc_session_truncate(session_, 0), NWC_STATUS_OK);
  EXPECT_EQ(last_logits(), want);
}

TEST_F(CApiSession, EvalArgumentsAreChecked) {
  create(params());
  std::vector<float> logits(kVocab);
  const auto eval = [&](const uint32_t* t, size_t n, nwc_logits which, float* out, size_t capacity) {
    return nwc_session_eval(session_, t, n, which, out, capacity);
  };
  EXPECT_EQ(eval(nullptr, 1, NWC_LOGITS_NONE, nullptr, 0), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(eval(tokens_.data(), 0, NWC_LOGITS_NONE, nullptr, 0), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(eval(tokens_.data(), 1, 3, logits.data(), kVocab), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(eval(tokens_.data(), 1, NWC_LOGITS_LAST, nullptr, kVocab), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(eval(tokens_.data(), 1, NWC_LOGITS_LAST, logits.data(), kVocab - 1), NWC_STATUS_BUFFER_TOO_SMALL);
  EXPECT_EQ(eval(tokens_.data(), 2, NWC_LOGITS_ALL, logits.data(), kVocab), NWC_STATUS_BUFFER_TOO_SMALL);
  const uint32_t beyond = kVocab;
  EXPECT_EQ(eval(&beyond, 1, NWC_LOGITS_NONE, nullptr, 0), NWC_STATUS_INVALID_ARGUMENT);
  const std::vector<uint32_t> many(65, 1);
  EXPECT_EQ(eval(many.data(), many.size(), NWC_LOGITS_NONE, nullptr, 0), NWC_STATUS_LIMIT);
  EXPECT_EQ(nwc_session_position(session_), 0u) << "a failed call leaves the position alone";
}

TEST_F(CApiSession, ParamsAreChecked) {
  nwc_session* none = nullptr;
  const auto refuse = [&](auto change) {
    nwc_session_params p = params();
    change(p);
    nwc_session_plan plan = zeroed<nwc_session_plan>();
    EXPECT_EQ(nwc_session_make_plan(model_, &p, &detail_, &plan), NWC_STATUS_INVALID_ARGUMENT);
    EXPECT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, &detail_, &none), NWC_STATUS_INVALID_ARGUMENT);
    EXPECT_STRNE(error_, "");
  };
  refuse([](nwc_session_params& p) { p.struct_size = 3; });
  refuse([](nwc_session_params& p) { p.mode = 5; });
  refuse([](nwc_session_params& p) { p.backend = 3; });
  refuse([](nwc_session_params& p) { p.device_index = -2; });
  refuse([](nwc_session_params& p) { p.weight_precision = NWC_PRECISION_PACKED + 1; });
  refuse([](nwc_session_params& p) { p.reserved = 1; });
  refuse([](nwc_session_params& p) { p.context = 257; });
  EXPECT_EQ(none, nullptr);
  const nwc_session_params p = params();
  EXPECT_EQ(nwc_session_create(nullptr, &p, nullptr, nullptr, nullptr, &none), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, nullptr, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_session_make_plan(model_, &p, nullptr, nullptr), NWC_STATUS_INVALID_ARGUMENT);
}

/// The heap with a count, which can run out, or give what is not aligned.
struct CountingAllocator {
  std::mutex mutex;
  std::map<void*, size_t> pieces;
  size_t bytes = 0, most = 0, calls = 0, fail_at = SIZE_MAX, skew = 0;
  std::align_val_t aligned{};  // the same in every call
  static void* allocate(void* user, size_t size, size_t alignment) {
    auto& self = *static_cast<CountingAllocator*>(user);
    const std::lock_guard lock(self.mutex);
    if (self.calls++ == self.fail_at) return nullptr;
    self.aligned = std::align_val_t{alignment};
    void* const p = static_cast<char*>(::operator new(size + alignment, self.aligned)) + self.skew;
    self.pieces[p] = size;
    self.bytes += size;
    self.most = std::max(self.most, self.bytes);
    return p;
  }
  static void release(void* user, void* p, size_t size) {
    auto& self = *static_cast<CountingAllocator*>(user);
    const std::lock_guard lock(self.mutex);
    const auto found = self.pieces.find(p);
    ASSERT_NE(found, self.pieces.end());
    EXPECT_EQ(found->second, size);
    self.bytes -= size;
    self.pieces.erase(found);
    ::operator delete(static_cast<char*>(p) - self.skew, self.aligned);
  }
  nwc_allocator functions() { return {this, allocate, release}; }
};

TEST_F(CApiSession, BuffersComeFromTheProgramsMemory) {
  for (const nwc_weight_mode mode : {NWC_WEIGHTS_RESIDENT, NWC_WEIGHTS_STREAMED, NWC_WEIGHTS_FUSED}) {
    nwc_session_params p = params();
    p.mode = mode;
    create(p);
    const std::vector<float> want = last_logits();
    CountingAllocator own;
    const nwc_allocator functions = own.functions();
    p.allocator = &functions;
    create(p);
    const nwc_session_plan plan = plan_for(p);
    const uint64_t planned = plan.weight_bytes + plan.stream_buffer_bytes + plan.kv_cache_bytes + plan.activation_bytes;
    EXPECT_EQ(own.bytes, planned) << mode;
    const size_t calls = own.calls;
    EXPECT_EQ(last_logits(), want);
    EXPECT_EQ(own.calls, calls) << "evaluating allocates nothing";
    nwc_session_destroy(session_);
    session_ = nullptr;
    EXPECT_TRUE(own.pieces.empty());
  }
}

TEST_F(CApiSession, AnAllocatorThatFailsIsAnError) {
  const auto expect = [&](CountingAllocator& own, nwc_status want, const char* mentions) {
    const nwc_allocator functions = own.functions();
    nwc_session_params p = params();
    p.allocator = &functions;
    nwc_session* none = nullptr;
    EXPECT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, &detail_, &none), want) << error_;
    EXPECT_NE(std::string(error_).find(mentions), std::string::npos) << error_;
    EXPECT_EQ(none, nullptr);
    EXPECT_TRUE(own.pieces.empty());
  };
  CountingAllocator counted;
  const nwc_allocator functions = counted.functions();
  nwc_session_params p = params();
  p.allocator = &functions;
  create(p);
  ASSERT_GT(counted.calls, 4u);
  for (size_t i = 0; i < counted.calls; ++i) {
    CountingAllocator own;
    own.fail_at = i;
    expect(own, NWC_STATUS_OUT_OF_MEMORY, "cannot allocate");
  }
  CountingAllocator skewed;
  skewed.skew = 4;
  expect(skewed, NWC_STATUS_INVALID_ARGUMENT, "aligned");
  nwc_session_destroy(session_);  // before `counted`
  session_ = nullptr;

  const nwc_allocator half{nullptr, CountingAllocator::allocate, nullptr};
  p.allocator = &half;
  nwc_session* none = nullptr;
  EXPECT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, &detail_, &none), NWC_STATUS_INVALID_ARGUMENT);
}

TEST_F(CApiSession, CreationCanBeCancelled) {
  const nwc_session_params p = params();
  nwc_session* none = nullptr;
  EXPECT_EQ(nwc_session_create(
                model_, &p, [](void*, uint64_t, uint64_t) { return 1; }, nullptr, &detail_, &none),
            NWC_STATUS_CANCELLED);
  EXPECT_EQ(none, nullptr);
}

// The caller's threads, reader and log are used while a call lasts, and never between calls.
struct Inside {
  std::atomic<bool> call{false};
  std::atomic<int> outside{0}, runs{0}, reads{0};
  std::vector<char> file;
  void note(std::atomic<int>* count) {
    ++*count;
    if (!call) ++outside;
  }
};

TEST_F(CApiSession, CallbacksComeWhileACallLasts) {
  Inside inside;
  std::ifstream in(NWC_TEST_MODEL, std::ios::binary);
  inside.file.assign(std::istreambuf_iterator<char>(in), {});
  nwc_read_callbacks callbacks = zeroed<nwc_read_callbacks>();
  callbacks.size_bytes = inside.file.size();
  callbacks.user = &inside;
  callbacks.read = [](void* user, uint64_t offset, void* out, size_t size) {
    auto& self = *static_cast<Inside*>(user);
    self.note(&self.reads);
    std::memcpy(out, self.file.data() + offset, size);
    return 0;
  };
  nwc_runner runner{};
  runner.user = &inside;
  runner.num_workers = 1;
  runner.run = [](void* user, uint32_t count, nwc_task task, void* data) {
    auto& self = *static_cast<Inside*>(user);
    self.note(&self.runs);
    for (uint32_t i = 0; i < count; ++i) task(data, i, 0);
    if (!self.call) ++self.outside;
  };
  nwc_model_destroy(model_);
  inside.call = true;
  ASSERT_EQ(nwc_model_open_callbacks(&callbacks, &detail_, &model_), NWC_STATUS_OK) << error_;
  for (const nwc_weight_mode mode : {NWC_WEIGHTS_STREAMED, NWC_WEIGHTS_FUSED, NWC_WEIGHTS_RESIDENT}) {
    nwc_session_params p = params();
    p.mode = mode;
    p.runner = &runner;
    inside.call = true;
    create(p);
    for (int i = 0; i < 5; ++i) {
      inside.call = false;
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      inside.call = true;
      std::vector<float> logits(kVocab);
      ASSERT_EQ(nwc_session_eval(session_, tokens_.data(), 1, NWC_LOGITS_LAST, logits.data(), logits.size()),
                NWC_STATUS_OK);
    }
    inside.call = false;
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    inside.call = true;
    nwc_session_destroy(session_);
    session_ = nullptr;
  }
  EXPECT_EQ(inside.outside, 0);
  EXPECT_GT(inside.reads, 10);
  EXPECT_GT(inside.runs, 10);
  nwc_model_destroy(model_);
  model_ = nullptr;
}

// Another program cuts the file short while a session reads it: an error that says so, never a signal; and the session
// goes on once the file is whole again.
TEST_F(CApiSession, AFileThatShrinksIsAnError) {
  const std::string path = ::testing::TempDir() + "nwc_capi_shrinks_" + std::to_string(getpid()) + ".nwc";
  for (const nwc_weight_mode mode : {NWC_WEIGHTS_STREAMED, NWC_WEIGHTS_FUSED}) {
    for (const uintmax_t divisor : {2u, 1000000000u}) {
      std::filesystem::copy_file(NWC_TEST_MODEL, path, std::filesystem::copy_options::overwrite_existing);
      nwc_model_destroy(model_);
      ASSERT_EQ(nwc_model_open_path(path.c_str(), &detail_, &model_), NWC_STATUS_OK) << error_;
      nwc_session_params p = params();
      p.mode = mode;
      create(p);
      const std::vector<float> before = last_logits();
      std::filesystem::resize_file(path, std::filesystem::file_size(path) / divisor);
      std::vector<float> logits(kVocab);
      nwc_status status = NWC_STATUS_OK;
      // Layers that were decoded ahead are still good.
      for (int i = 0; i < 3 && status == NWC_STATUS_OK; ++i)
        status = nwc_session_eval(session_, tokens_.data(), 1, NWC_LOGITS_LAST, logits.data(), logits.size());
      EXPECT_EQ(status, NWC_STATUS_TRUNCATED);
      EXPECT_NE(std::string(nwc_session_last_error(session_)).find("shorter"), std::string::npos)
          << nwc_session_last_error(session_);
      std::filesystem::copy_file(NWC_TEST_MODEL, path, std::filesystem::copy_options::overwrite_existing);
      ASSERT_EQ(nwc_session_truncate(session_, 0), NWC_STATUS_OK);
      EXPECT_EQ(last_logits(), before);
    }
  }
  std::filesystem::remove(path);
}

TEST_F(CApiSession, GenerationIsRepeatableAndStopsForTheRightReason) {
  create(params());
  nwc_generate_params g = zeroed<nwc_generate_params>();
  g.max_tokens = 10;
  g.temperature = 1;
  g.top_k = 40;
  g.top_p = 0.9f;
  g.seed = 42;
  g.ignore_eos = 1;
  nwc_stop_reason reason = 99;
  const auto generate = [&](Drawn* drawn) {
    EXPECT_EQ(nwc_session_truncate(session_, 0), NWC_STATUS_OK);
    return nwc_session_generate(session_, tokens_.data(), tokens_.size(), &g, on_token, drawn, &reason);
  };
  Drawn first, second, other;
  ASSERT_EQ(generate(&first), NWC_STATUS_OK) << nwc_session_last_error(session_);
  EXPECT_EQ(reason, static_cast<uint32_t>(NWC_STOP_MAX_TOKENS));
  EXPECT_EQ(first.tokens.size(), 10u);
  EXPECT_FALSE(first.text.empty());
  ASSERT_EQ(generate(&second), NWC_STATUS_OK);
  EXPECT_EQ(second.tokens, first.tokens);
  g.seed = 43;
  ASSERT_EQ(generate(&other), NWC_STATUS_OK);
  EXPECT_NE(other.tokens, first.tokens);

  Drawn stopped;
  stopped.stop_after = 3;
  ASSERT_EQ(generate(&stopped), NWC_STATUS_OK);
  EXPECT_EQ(reason, static_cast<uint32_t>(NWC_STOP_CALLBACK));
  EXPECT_EQ(stopped.tokens.size(), 3u);

  g.max_tokens = 0;
  Drawn full;
  ASSERT_EQ(generate(&full), NWC_STATUS_OK);
  EXPECT_EQ(reason, static_cast<uint32_t>(NWC_STOP_CONTEXT_FULL));
  EXPECT_EQ(full.tokens.size(), 64 - tokens_.size());
  EXPECT_EQ(nwc_session_position(session_), 64u);

  Drawn none;
  EXPECT_EQ(nwc_session_generate(session_, nullptr, 0, &g, on_token, &none, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_session_generate(session_, tokens_.data(), 1, &g, nullptr, nullptr, nullptr),
            NWC_STATUS_INVALID_ARGUMENT);
  g.top_p = 2;
  EXPECT_EQ(generate(&none), NWC_STATUS_INVALID_ARGUMENT);
  g.top_p = 0;
  g.temperature = -1;
  EXPECT_EQ(generate(&none), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_TRUE(none.tokens.empty());
}

// Whoever cannot run a model reads why, with the words of the program that made the file.
TEST(CApiSessionErrors, NameTheReasonForAModelThatIsLeftOut) {
  char error[512] = "";
  const nwc_error_detail detail = {error, sizeof error};
  nwc_model* model = nullptr;
  ASSERT_EQ(nwc_model_open_path(NWC_TEST_MODEL_NOT_RUN, &detail, &model), NWC_STATUS_OK) << error;
  nwc_model_info info = zeroed<nwc_model_info>();
  ASSERT_EQ(nwc_model_get_info(model, &info), NWC_STATUS_OK);
  EXPECT_EQ(info.has_architecture, 0u);

  nwc_session* session = nullptr;
  EXPECT_EQ(nwc_session_create(model, nullptr, nullptr, nullptr, &detail, &session), NWC_STATUS_UNSUPPORTED);
  EXPECT_EQ(session, nullptr);
  EXPECT_NE(std::string(error).find("model_type"), std::string::npos) << error;
  EXPECT_NE(std::string(error).find("imaginary"), std::string::npos) << error;
  EXPECT_NE(std::string(error).find("can be decoded"), std::string::npos) << error;

  // And they can.
  nwc_decoder_params params = zeroed<nwc_decoder_params>();
  params.backend = NWC_BACKEND_CPU;
  nwc_decoder* decoder = nullptr;
  ASSERT_EQ(nwc_decoder_create(model, &params, &detail, &decoder), NWC_STATUS_OK) << error;
  uint32_t tensor = 0;
  ASSERT_EQ(nwc_model_find_tensor(model, "model.layers.0.mlp.down_proj.weight", &tensor), NWC_STATUS_OK);
  std::vector<float> weights(size_t{192} * 512);
  EXPECT_EQ(nwc_decoder_decode_tensor(decoder, tensor, NWC_DTYPE_F32, nullptr, nullptr, weights.data(),
                                      weights.size() * sizeof(float)),
            NWC_STATUS_OK);
  nwc_decoder_destroy(decoder);
  nwc_model_destroy(model);
}

}  // namespace
