// Every family of models against transformers (tests/scripts/make_family_fixtures.py): logits within 1e-4 of the
// largest one, in one pass, in odd batches and token by token, beyond windows and trained lengths, from resident and
// streamed weights.
#include "tests/engine/family_fixture.h"

namespace nwc::test {
namespace {

class Families : public ::testing::TestWithParam<std::string> {};

/// Logits of all tokens, passed in calls of `step` tokens.
std::vector<float> in_steps(Session& session, const std::vector<uint32_t>& tokens, size_t step) {
  std::vector<float> logits(tokens.size() * session.vocab_size());
  session.reset();
  for (size_t at = 0; at < tokens.size(); at += step) {
    const size_t count = std::min(step, tokens.size() - at);
    const std::span<float> out = std::span(logits).subspan(at * session.vocab_size(), count * session.vocab_size());
    const Status status = session.eval(std::span(tokens).subspan(at, count), LogitsWanted::kAll, out);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return logits;
}

float worst_of(const FamilyFixture& f, const std::vector<float>& logits) {
  const size_t vocab = logits.size() / f.tokens.size();
  float worst = 0, largest = 0;
  for (size_t i = 0; i < f.positions.size(); ++i) {
    worst = std::max(worst, largest_difference(std::span(logits).subspan(f.positions[i] * vocab, vocab),
                                               std::span(f.logits).subspan(i * vocab, vocab)));
  }
  for (const float v : f.logits) largest = std::max(largest, std::abs(v));
  return worst / largest;
}

SessionParams exact_params(const FamilyFixture& f) {
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  params.kv_dtype = Dtype::kF32;
  params.context = static_cast<uint32_t>(f.tokens.size());
  return params;
}

TEST_P(Families, MatchTransformers) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const PlainModel model = load_model(f.folder);
  for (const CpuLevel level : kCpuLevels) {
    if (level > detect_cpu_level()) continue;
    SessionParams params = exact_params(f);
    params.max_cpu = level;
    Bench whole = make_bench(model, params);
    ASSERT_NE(whole.session, nullptr);
    EXPECT_LT(worst_of(f, all_logits(*whole.session, f.tokens)), 1e-4f) << cpu_level_name(level);
    params.batch = 7;
    params.mode = SessionMode::kStreamed;
    Bench parts = make_bench(model, params);
    ASSERT_NE(parts.session, nullptr);
    EXPECT_LT(worst_of(f, all_logits(*parts.session, f.tokens)), 1e-4f) << cpu_level_name(level) << " in batches of 7";
    EXPECT_LT(worst_of(f, in_steps(*parts.session, f.tokens, 1)), 1e-4f) << cpu_level_name(level) << " one by one";
  }
}

/// What a window has forgotten is computed again.
TEST_P(Families, GoBack) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const PlainModel model = load_model(f.folder);
  SessionParams params = exact_params(f);
  params.batch = 3;
  Bench bench = make_bench(model, params);
  ASSERT_NE(bench.session, nullptr);
  all_logits(*bench.session, f.tokens);
  ASSERT_TRUE(bench.session->truncate(4).ok());
  const size_t vocab = bench.session->vocab_size();
  std::vector<float> logits(f.tokens.size() * vocab);
  const std::span<const uint32_t> rest = std::span(f.tokens).subspan(4);
  ASSERT_TRUE(bench.session->eval(rest, LogitsWanted::kAll, std::span(logits).subspan(4 * vocab)).ok());
  const std::vector<float> fresh = all_logits(*bench.session, f.tokens);
  EXPECT_LT(largest_difference(std::span(logits).subspan(4 * vocab), std::span(fresh).subspan(4 * vocab)), 1e-3f);
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::ValuesIn(family_names()), [](const auto& i) { return i.param; });

}  // namespace
}  // namespace nwc::test
