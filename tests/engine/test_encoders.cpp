// Every family of encoders against transformers: hidden states and embeddings within 1e-4 of the largest, resident,
// streamed and fused. And what is no input of theirs.
#include "tests/engine/encoder_fixture.h"

namespace nwc::test {
namespace {

class Encoders : public ::testing::TestWithParam<std::string> {};

SessionParams exact_params() {
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  params.kv_dtype = Dtype::kF32;
  return params;
}

TEST_P(Encoders, MatchTransformers) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/encoders is not here";
  const EncoderFixture f = make_encoder(GetParam());
  const PlainModel model = load_model(f.folder);
  for (const CpuLevel level : kCpuLevels) {
    if (level > detect_cpu_level()) continue;
    for (const SessionMode mode : {SessionMode::kResident, SessionMode::kStreamed, SessionMode::kFused}) {
      SessionParams params = exact_params();
      params.max_cpu = level;
      params.mode = mode;
      Bench bench = make_bench(model, params);
      ASSERT_NE(bench.session, nullptr);
      EXPECT_LT(worst_of(f, encode(*bench.session, f), model.record.hidden_size), 1e-4f)
          << cpu_level_name(level) << " " << session_mode_name(mode);
    }
  }
}

/// The same at any number of threads, and a second time; no more memory than planned.
TEST_P(Encoders, AreDeterministicAndWithinThePlan) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/encoders is not here";
  const EncoderFixture f = make_encoder(GetParam());
  const PlainModel model = load_model(f.folder);
  Bench one = make_bench(model, exact_params(), 1), three = make_bench(model, exact_params(), 3);
  ASSERT_NE(one.session, nullptr);
  ASSERT_NE(three.session, nullptr);
  const Encoded first = encode(*one.session, f), second = encode(*one.session, f), other = encode(*three.session, f);
  EXPECT_EQ(first.embedding, second.embedding);
  EXPECT_EQ(first.hidden, second.hidden);
  EXPECT_EQ(first.embedding, other.embedding);
  const MemoryPlan& plan = one.session->plan();
  EXPECT_LE(one.session->allocated_bytes(), plan.total - plan.decoder_scratch);
}

TEST_P(Encoders, RefuseWhatIsNoInput) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/encoders is not here";
  const EncoderFixture f = make_encoder(GetParam());
  const PlainModel model = load_model(f.folder);
  Bench bench = make_bench(model, exact_params());
  ASSERT_NE(bench.session, nullptr);
  Session& session = *bench.session;
  const Encoded before = encode(session, f);
  std::vector<float> embedding(session.model().embedding_size()), logits(1000);
  const std::vector<uint32_t> one = {1};
  EXPECT_EQ(session.eval(one, LogitsWanted::kLast, logits).code(), StatusCode::kUnsupported);
  EXPECT_EQ(session.append(1).code(), StatusCode::kUnsupported);
  if (f.pixels.empty()) {
    EXPECT_EQ(session.embed_image(std::vector<float>(27), {}, embedding).code(), StatusCode::kUnsupported);
    EXPECT_EQ(session.embed({}, {}, embedding).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(session.embed(std::vector<uint32_t>{96}, {}, embedding).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(session.embed(std::vector<uint32_t>(41, 1), {}, embedding).code(), StatusCode::kLimit);
    EXPECT_EQ(session.embed(one, {}, std::span(embedding).first(3)).code(), StatusCode::kBufferTooSmall);
  } else {
    EXPECT_EQ(session.embed(one, {}, embedding).code(), StatusCode::kUnsupported);
    EXPECT_EQ(session.embed_image({}, {}, embedding).code(), StatusCode::kInvalidArgument);
    std::vector<float> pixels = f.pixels;
    pixels[7] = NAN;
    EXPECT_EQ(session.embed_image(pixels, {}, embedding).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(session.embed_image(f.pixels, std::span(logits).first(5), embedding).code(), StatusCode::kBufferTooSmall);
  }
  EXPECT_EQ(encode(session, f).embedding, before.embedding) << "the session is of use afterwards";
}

INSTANTIATE_TEST_SUITE_P(All, Encoders, ::testing::ValuesIn(encoder_names()), [](const auto& i) { return i.param; });

}  // namespace
}  // namespace nwc::test
