// Every family of models on a Vulkan device: logits, or states and embeddings, of transformers within the tolerance
// that doc/architecture.md states.
#include "runtime/decoder/vulkan/vulkan_decoder.h"
#include "tests/engine/encoder_fixture.h"
#include "tests/vulkan/vulkan_fixture.h"

namespace nwc::test {
namespace {

/// Of the logits' standard deviation.
constexpr float kTolerance = 2e-3f;

class FamiliesVulkan : public ::testing::TestWithParam<std::string> {};

TEST_P(FamiliesVulkan, MatchTransformers) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const PlainModel model = load_model(f.folder);
  double sum = 0, squares = 0;
  for (const float v : f.logits) sum += double{v}, squares += double{v} * double{v};
  const double count = static_cast<double>(f.logits.size()), mean = sum / count;
  float allowed = kTolerance * static_cast<float>(std::sqrt(squares / count - mean * mean));
  // Weights and cache are f32: much less is lost.
  float largest = 0;
  for (const float v : f.logits) largest = std::max(largest, std::abs(v));
  allowed = std::min(allowed, 1e-4f * largest);
  const uint32_t rotated = model.record.block().rope_dims();
  for (const SessionMode mode : {SessionMode::kResident, SessionMode::kStreamed}) {
    const std::unique_ptr<NwcFile> file = make_file(model);
    const std::unique_ptr<Runner> runner = make_thread_pool(2), decode_runner = make_thread_pool(2);
    testing::LogLines log;
    VulkanOptions options;
    options.validation = true;
    auto decoder = create_vulkan_decoder(*file, *decode_runner, options, log.logger());
    NWC_NEED_DEVICE(decoder.status());
    SessionParams params;
    params.compute = Compute::kVulkan;
    params.mode = mode;
    params.weight_dtype = Dtype::kF32;
    params.kv_dtype = Dtype::kF32;
    params.context = static_cast<uint32_t>(f.tokens.size());
    params.batch = mode == SessionMode::kResident ? params.context : 7;
    auto session = Session::create(*file, **decoder, *runner, params, log.logger());
    if (rotated % 4 != 0) {
      EXPECT_EQ(session.status().code(), StatusCode::kUnsupported);
      EXPECT_NE(session.status().message().find("numbers rotate"), std::string::npos) << session.status().message();
      return;
    }
    ASSERT_TRUE(session.ok()) << session.status().message();
    const size_t vocab = (*session)->vocab_size();
    const std::vector<float> logits = all_logits(**session, f.tokens);
    std::vector<float> single(logits.size());
    (*session)->reset();
    for (size_t t = 0; t < f.tokens.size(); ++t) {
      const Status status = (*session)->eval(std::span(f.tokens).subspan(t, 1), LogitsWanted::kAll,
                                             std::span(single).subspan(t * vocab, vocab));
      ASSERT_TRUE(status.ok()) << status.message();
    }
    for (size_t i = 0; i < f.positions.size(); ++i) {
      const std::span<const float> expected = std::span(f.logits).subspan(i * vocab, vocab);
      EXPECT_LT(largest_difference(std::span(logits).subspan(f.positions[i] * vocab, vocab), expected), allowed)
          << "position " << f.positions[i];
      EXPECT_LT(largest_difference(std::span(single).subspan(f.positions[i] * vocab, vocab), expected), allowed)
          << "position " << f.positions[i] << ", one by one";
    }
  }
}

class EncodersVulkan : public ::testing::TestWithParam<std::string> {};

TEST_P(EncodersVulkan, MatchTransformers) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/encoders is not here";
  const EncoderFixture f = make_encoder(GetParam());
  const PlainModel model = load_model(f.folder);
  const std::unique_ptr<NwcFile> file = make_file(model);
  const std::unique_ptr<Runner> runner = make_thread_pool(2), decode_runner = make_thread_pool(2);
  testing::LogLines log;
  VulkanOptions options;
  options.validation = true;
  auto decoder = create_vulkan_decoder(*file, *decode_runner, options, log.logger());
  NWC_NEED_DEVICE(decoder.status());
  for (const SessionMode mode : {SessionMode::kResident, SessionMode::kStreamed}) {
    SessionParams params;
    params.compute = Compute::kVulkan;
    params.mode = mode;
    params.weight_dtype = Dtype::kF32;
    params.kv_dtype = Dtype::kF32;
    auto session = Session::create(*file, **decoder, *runner, params, log.logger());
    ASSERT_TRUE(session.ok()) << session.status().message();
    EXPECT_LT(worst_of(f, encode(**session, f), model.record.hidden_size), 1e-4f) << session_mode_name(mode);
    EXPECT_EQ((*session)->compute(), Compute::kVulkan);
    const MemoryPlan& plan = (*session)->plan();
    EXPECT_LE((*session)->allocated_bytes(), plan.total - plan.decoder_scratch);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EncodersVulkan, ::testing::ValuesIn(encoder_names()),
                         [](const auto& i) { return i.param; });
INSTANTIATE_TEST_SUITE_P(All, FamiliesVulkan, ::testing::ValuesIn(family_names()),
                         [](const auto& i) { return i.param; });

}  // namespace
}  // namespace nwc::test
