// Sessions on a Vulkan device that fails: the library as it is installed, with a loader that injects the faults.
#include <gtest/gtest.h>
#include <nwc/nwc.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/test_paths.h"
#include "tests/vulkan/faulty_vulkan.h"

namespace {

constexpr uint32_t kVocab = 1024;

class CApiFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("NWC_VULKAN_LIBRARY", NWC_FAULTY_VULKAN, 1);
    reset_faulty_vulkan();
    faulty_vulkan()->hardware = true;
    const std::string model = nwc::test::path_from("NWC_TEST_MODEL", NWC_TEST_MODEL);
    ASSERT_EQ(nwc_model_open_path(model.c_str(), &detail_, &model_), NWC_STATUS_OK) << error_;
    // How much work the start-up self-test is.
    nwc_decoder* decoder = nullptr;
    ASSERT_EQ(nwc_decoder_create(model_, nullptr, &detail_, &decoder), NWC_STATUS_OK) << error_;
    const bool vulkan = nwc_decoder_backend(decoder) == NWC_BACKEND_VULKAN;
    nwc_decoder_destroy(decoder);
    const char* required = std::getenv("NWC_REQUIRE_VULKAN");
    if (!vulkan && (required == nullptr || std::string(required) != "1")) GTEST_SKIP() << "no Vulkan device";
    ASSERT_TRUE(vulkan);
    self_test_submits_ = faulty_vulkan()->submits;
    self_test_batches_ = faulty_vulkan()->batches;
    self_test_modules_ = faulty_vulkan()->modules;
    ASSERT_GT(self_test_submits_, 0u);
  }
  void TearDown() override {
    nwc_session_destroy(session_);
    nwc_model_destroy(model_);
    unsetenv("NWC_VULKAN_LIBRARY");
  }

  /// The faults count from here. They are not changed later: layers are decoded in another thread.
  void create(nwc_backend backend, nwc_weight_mode mode, const FaultyVulkan& faults) {
    nwc_session_destroy(session_);
    session_ = nullptr;
    log_.clear();
    *faulty_vulkan() = faults;
    faulty_vulkan()->hardware = true;
    nwc_session_params p;
    nwc_session_params_init(&p);
    p.backend = backend;
    p.mode = mode;
    p.num_threads = 2;
    p.context = 64;
    p.log = [](void* user, nwc_log_level level, const char* message) {
      if (level >= NWC_LOG_WARNING) static_cast<std::vector<std::string>*>(user)->push_back(message);
    };
    p.log_user = &log_;
    ASSERT_EQ(nwc_session_create(model_, &p, nullptr, nullptr, &detail_, &session_), NWC_STATUS_OK) << error_;
  }
  nwc_status eval(std::vector<float>* logits) {
    const std::vector<uint32_t> tokens = {5, 80, 400, 3, 77, 901, 12, 6};
    logits->assign(kVocab, 0);
    return nwc_session_eval(session_, tokens.data(), tokens.size(), NWC_LOGITS_LAST, logits->data(), logits->size());
  }
  std::vector<float> logits() {
    std::vector<float> out;
    EXPECT_EQ(eval(&out), NWC_STATUS_OK) << nwc_session_last_error(session_);
    return out;
  }
  std::string name() const { return nwc_session_name(session_); }
  size_t warnings(const std::string& text) const {
    return static_cast<size_t>(std::count_if(
        log_.begin(), log_.end(), [&](const std::string& line) { return line.find(text) != std::string::npos; }));
  }
  static float distance(const std::vector<float>& a, const std::vector<float>& b) {
    float most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::fabs(a[i] - b[i]));
    return most;
  }

  nwc_model* model_ = nullptr;
  nwc_session* session_ = nullptr;
  uint32_t self_test_submits_ = 0, self_test_batches_ = 0, self_test_modules_ = 0;
  std::vector<std::string> log_;
  char error_[512] = "";
  nwc_error_detail detail_{error_, sizeof error_};
};

// Two backends round a few weights differently in f16; the logits are of size 10.
constexpr float kTolerance = 0.02f;

/// Is there another kernel to take the place of a wrong one? Else the CPU does.
bool another_kernel() { return std::getenv("NWC_VULKAN_DISABLE") == nullptr; }

/// The same symbols through the same synthesis, where the device goes on.
void expect_same(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  const float tolerance = another_kernel() ? 0 : kTolerance;
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance) << i;
}

TEST_F(CApiFaults, LostDeviceCostsAWarningAndNotTheSession) {
  create(NWC_BACKEND_CPU, NWC_WEIGHTS_STREAMED, {});
  const std::vector<float> want = logits();
  // At the first tensor, among the layers, in the middle of a later batch.
  const std::pair<nwc_weight_mode, uint32_t> cases[] = {
      {NWC_WEIGHTS_RESIDENT, 0}, {NWC_WEIGHTS_RESIDENT, 7}, {NWC_WEIGHTS_STREAMED, 40}};
  for (const auto& [mode, after] : cases) {
    SCOPED_TRACE("mode " + std::to_string(mode) + ", lost after " + std::to_string(after));
    FaultyVulkan faults;
    faults.submits_until_lost = self_test_submits_ + after;
    create(NWC_BACKEND_AUTO, mode, faults);
    for (int round = 0; round < 3; ++round) {
      const std::vector<float> got = logits();
      EXPECT_LE(distance(got, want), after == 0 ? 0 : kTolerance);
      ASSERT_EQ(nwc_session_truncate(session_, 0), NWC_STATUS_OK);
    }
    EXPECT_EQ(warnings("is given up"), 1u);
    // Decoding and computing share the device: who comes second is told that it was lost.
    EXPECT_GE(warnings("VK_ERROR_DEVICE_LOST") + warnings("was lost"), 1u);
    EXPECT_EQ(name().rfind("cpu ", 0), 0u) << name();
  }
}

TEST_F(CApiFaults, WrongKernelIsReplacedByTheNextVariantOrTheCpu) {
  create(NWC_BACKEND_AUTO, NWC_WEIGHTS_STREAMED, {});
  const std::vector<float> vulkan = logits();
  EXPECT_EQ(warnings(""), 0u);

  FaultyVulkan faults;
  faults.damaged_modules = 1;
  create(NWC_BACKEND_AUTO, NWC_WEIGHTS_STREAMED, faults);
  expect_same(logits(), vulkan);
  EXPECT_GE(warnings("quarantined Vulkan kernel"), 1u);

  faults.damaged_modules = 3;
  create(NWC_BACKEND_AUTO, NWC_WEIGHTS_STREAMED, faults);
  EXPECT_EQ(name().rfind("cpu ", 0), 0u) << name();
  const std::vector<float> fallback = logits();
  create(NWC_BACKEND_CPU, NWC_WEIGHTS_STREAMED, {});
  EXPECT_EQ(logits(), fallback);
}

TEST_F(CApiFaults, KernelThatFailsInTheMiddleIsReplaced) {
  create(NWC_BACKEND_AUTO, NWC_WEIGHTS_RESIDENT, {});
  const std::vector<float> want = logits();
  const std::string device = name();
  size_t replaced = 0, floats = 0;
  // While layers are decoded, batches of values and of units take turns, with others that dispatch nothing. Only a few:
  // each session compiles its kernels anew.
  for (const int64_t batch : {12, 20, 21, 26, 27}) {
    FaultyVulkan faults;
    faults.batches_until_skip = self_test_batches_ + batch;
    create(NWC_BACKEND_AUTO, NWC_WEIGHTS_RESIDENT, faults);
    if (faulty_vulkan()->skipped == 0) continue;  // it dispatches nothing, or comes after the session is made
    const size_t quarantined = warnings("quarantined Vulkan kernel");
    const size_t without_integers = warnings("weights are not held as integers");
    replaced += quarantined;
    floats += without_integers;
    EXPECT_LE(distance(logits(), want), kTolerance) << "batch " << batch;
    EXPECT_TRUE(quarantined == 0 || !another_kernel() || name() == device);
  }
  EXPECT_GE(replaced, 1u);
  EXPECT_GE(floats, 1u) << "units that are not packed are seen";
}

TEST_F(CApiFaults, WrongLayerKernelsLeaveTheModelToTheCpu) {
  create(NWC_BACKEND_AUTO, NWC_WEIGHTS_RESIDENT, {});
  const uint32_t layer_kernels = faulty_vulkan()->modules - self_test_modules_;
  EXPECT_GE(layer_kernels, 8u);
  ASSERT_LT(self_test_modules_ + layer_kernels, 32u);
  const std::vector<float> vulkan = logits();
  create(NWC_BACKEND_CPU, NWC_WEIGHTS_RESIDENT, {});
  EXPECT_LE(distance(vulkan, logits()), kTolerance);
  for (uint32_t i = 0; i < 8; ++i) {  // the others decode
    FaultyVulkan faults;
    faults.damaged_modules = 1u << (self_test_modules_ + i);
    create(NWC_BACKEND_AUTO, NWC_WEIGHTS_RESIDENT, faults);
    EXPECT_EQ(warnings("does not compute rightly"), 1u) << "layer kernel " << i;
    EXPECT_LE(distance(logits(), vulkan), kTolerance);
  }
}

TEST_F(CApiFaults, LostDeviceIsAnErrorWhereVulkanWasAskedFor) {
  FaultyVulkan faults;
  faults.submits_until_lost = self_test_submits_ + 40;
  create(NWC_BACKEND_VULKAN, NWC_WEIGHTS_STREAMED, faults);
  std::vector<float> out;
  nwc_status status = NWC_STATUS_OK;
  for (int round = 0; round < 4 && status == NWC_STATUS_OK; ++round) {
    ASSERT_EQ(nwc_session_truncate(session_, 0), NWC_STATUS_OK);
    status = eval(&out);
  }
  EXPECT_EQ(status, NWC_STATUS_DEVICE_LOST);
  EXPECT_EQ(nwc_session_position(session_), 0u);
  EXPECT_STRNE(nwc_session_last_error(session_), "");
}

// After a submission that failed in the middle of the layers, the next call begins with the first layer again: it has
// the right weights, or another error, but never other logits.
TEST_F(CApiFaults, AfterAFailedSubmissionTheNextCallHasTheRightWeights) {
  create(NWC_BACKEND_VULKAN, NWC_WEIGHTS_STREAMED, {});
  const std::vector<float> want = logits();
  int failed = 0, right_after_a_failure = 0;
  for (const uint32_t every : {11u, 13u, 17u}) {
    FaultyVulkan faults;
    // Beyond what making the session takes, which is to succeed.
    faults.refuse_from = self_test_submits_ + 60;
    faults.refuse_every = every;
    create(NWC_BACKEND_VULKAN, NWC_WEIGHTS_STREAMED, faults);
    bool failed_before = false;
    for (int round = 0; round < 20; ++round) {
      ASSERT_EQ(nwc_session_truncate(session_, 0), NWC_STATUS_OK);
      std::vector<float> got;
      const bool failed_now = eval(&got) != NWC_STATUS_OK;
      if (!failed_now) expect_same(got, want);
      if (HasFatalFailure()) return;
      failed += failed_now;
      right_after_a_failure += failed_before && !failed_now;
      failed_before = failed_now;
    }
  }
  EXPECT_GT(failed, 0);
  EXPECT_GT(right_after_a_failure, 0);
}

}  // namespace
