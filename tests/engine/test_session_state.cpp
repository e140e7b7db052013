// Sequences that one session keeps and another one takes up.
#include "runtime/engine/session_state.h"
#include "tests/engine/model_fixture.h"

namespace nwc::test {
namespace {

/// The middle layers see 20 positions.
ModelRecord windowed_record() {
  ModelRecord r = small_record();
  r.blocks.resize(2, r.blocks.front());
  r.blocks[1].window = 20;
  r.block_kind = {0, 1, 1, 1, 0};
  return r;
}

std::vector<uint8_t> saved(Session& session) {
  const auto bytes = session.state_bytes();
  EXPECT_TRUE(bytes.ok()) << bytes.status().message();
  std::vector<uint8_t> out(static_cast<size_t>(*bytes));
  const Status status = session.save_state(out);
  EXPECT_TRUE(status.ok()) << status.message();
  return out;
}

std::vector<float> last_logits(Session& session, std::span<const uint32_t> tokens) {
  std::vector<float> logits(session.vocab_size());
  const Status status = session.eval(tokens, LogitsWanted::kLast, logits);
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

TEST(SessionState, AnotherSessionGoesOnWithTheSameBits) {
  uint32_t seed = 20;
  for (const ModelRecord& record : {small_record(), windowed_record()}) {
    const PlainModel model = random_model(record, ++seed);
    const std::vector<uint32_t> tokens = random_tokens(250, 101, seed), more = random_tokens(7, 101, seed + 100);
    for (const Dtype kv : {Dtype::kF16, Dtype::kF32}) {
      for (const size_t length : {size_t{1}, size_t{50}, size_t{250}}) {
        SessionParams params;
        params.kv_dtype = kv;
        Bench first = make_bench(model, params);
        const auto prompt = std::span(tokens).first(length);
        ASSERT_TRUE(first.session->eval(prompt, LogitsWanted::kNone, {}).ok());
        const std::vector<uint8_t> state = saved(*first.session);
        const std::vector<float> expected = last_logits(*first.session, more);

        params.context = 260;  // another context, batch and mode: another ring, too
        params.batch = 16;
        params.mode = SessionMode::kStreamed;
        Bench second = make_bench(model, params);
        ASSERT_TRUE(second.session->eval(more, LogitsWanted::kNone, {}).ok()) << "what is replaced";
        const Status taken = second.session->load_state(state);
        ASSERT_TRUE(taken.ok()) << taken.message();
        EXPECT_EQ(second.session->position(), length);
        EXPECT_EQ(saved(*second.session), state);
        EXPECT_EQ(last_logits(*second.session, more), expected);
      }
    }
  }
}

// A layer with a window keeps what the next token sees. From further back all is evaluated again.
TEST(SessionState, GoesBackBeyondWhatAWindowKept) {
  const PlainModel model = random_model(windowed_record(), 31);
  const std::vector<uint32_t> tokens = random_tokens(200, 101, 32), more = random_tokens(3, 101, 33);
  Bench first = make_bench(model, {}), second = make_bench(model, {}), plain = make_bench(model, {});
  ASSERT_TRUE(first.session->eval(tokens, LogitsWanted::kNone, {}).ok());
  ASSERT_TRUE(second.session->load_state(saved(*first.session)).ok());
  ASSERT_TRUE(second.session->eval(more, LogitsWanted::kNone, {}).ok());
  ASSERT_TRUE(second.session->truncate(201).ok());
  ASSERT_TRUE(second.session->truncate(150).ok());
  const std::vector<float> got = last_logits(*second.session, more);
  ASSERT_TRUE(plain.session->eval(std::span(tokens).first(150), LogitsWanted::kNone, {}).ok());
  const std::vector<float> expected = last_logits(*plain.session, more);
  EXPECT_LT(largest_difference(got, expected), 5e-5f);
}

// A call that ends early leaves the sequence as it was, though the rings of layers with a window have moved on by then.
TEST(SessionState, ACancelledEvaluationChangesNothing) {
  const PlainModel model = random_model(windowed_record(), 39);
  const std::vector<uint32_t> tokens = random_tokens(290, 101, 40), more = random_tokens(3, 101, 41);
  SessionParams params;
  params.batch = 8;
  Bench bench = make_bench(model, params), plain = make_bench(model, params);
  Session& s = *bench.session;
  struct Calls {
    std::vector<std::pair<uint64_t, uint64_t>> reported;
    size_t most = SIZE_MAX;
  } calls;
  s.set_progress({[](void* user, uint64_t done, uint64_t total) {
                    auto& c = *static_cast<Calls*>(user);
                    c.reported.emplace_back(done, total);
                    return c.reported.size() < c.most;
                  },
                  &calls});
  const auto prompt = std::span(tokens).first(30);
  ASSERT_TRUE(s.eval(prompt, LogitsWanted::kNone, {}).ok());
  const std::vector<std::pair<uint64_t, uint64_t>> all = {{0, 30}, {8, 30}, {16, 30}, {24, 30}, {30, 30}};
  EXPECT_EQ(calls.reported, all);
  calls = {{}, 25};
  EXPECT_EQ(s.eval(std::span(tokens).subspan(30), LogitsWanted::kNone, {}).code(), StatusCode::kCancelled);
  EXPECT_EQ(s.position(), 30u);
  calls = {};
  ASSERT_TRUE(plain.session->eval(prompt, LogitsWanted::kNone, {}).ok());
  EXPECT_LT(largest_difference(last_logits(s, more), last_logits(*plain.session, more)), 5e-5f);
}

TEST(SessionState, TokensThatNobodyEvaluatedYetComeAlong) {
  const PlainModel model = random_model(small_record(), 34);
  const std::vector<uint32_t> tokens = random_tokens(20, 101, 35);
  Bench first = make_bench(model, {}), second = make_bench(model, {});
  EXPECT_TRUE(second.session->load_state(saved(*first.session)).ok()) << "an empty sequence";
  EXPECT_EQ(second.session->position(), 0u);
  ASSERT_TRUE(first.session->eval(std::span(tokens).first(18), LogitsWanted::kNone, {}).ok());
  ASSERT_TRUE(first.session->append(tokens[18]).ok());
  ASSERT_TRUE(second.session->load_state(saved(*first.session)).ok());
  EXPECT_EQ(second.session->position(), 19u);
  EXPECT_EQ(last_logits(*second.session, {&tokens[19], 1}), last_logits(*first.session, {&tokens[19], 1}));
}

TEST(SessionState, NothingIsBelieved) {
  const PlainModel model = random_model(small_record(), 36), other = random_model(small_record(), 37);
  const std::vector<uint32_t> tokens = random_tokens(12, 101, 38);
  Bench bench = make_bench(model, {}), another = make_bench(other, {});
  Session& s = *bench.session;
  ASSERT_TRUE(s.eval(tokens, LogitsWanted::kNone, {}).ok());
  const std::vector<uint8_t> state = saved(s);
  std::vector<uint8_t> small(state.size() - 1);
  EXPECT_EQ(s.save_state(small).code(), StatusCode::kBufferTooSmall);

  for (size_t length = 0; length < state.size(); ++length)
    ASSERT_FALSE(s.load_state(Bytes(state).first(length)).ok()) << length;
  std::vector<uint8_t> longer = state;
  longer.push_back(0);
  EXPECT_FALSE(s.load_state(longer).ok());
  for (size_t i = 0; i < state.size(); ++i) {
    std::vector<uint8_t> flipped = state;
    flipped[i] ^= 0x10;
    ASSERT_FALSE(s.load_state(flipped).ok()) << i;
  }
  // With a checksum that fits, what is said has to fit the model.
  const auto with = [&](size_t offset, uint32_t value) {
    std::vector<uint8_t> changed = state;
    store_le(changed.data() + offset, value);
    end_state(changed);
    return s.load_state(changed);
  };
  EXPECT_EQ(with(8, 2).code(), StatusCode::kUnsupportedVersion);
  EXPECT_EQ(with(12, 1).code(), StatusCode::kInvalidArgument) << "another file";
  EXPECT_EQ(with(16, 77).code(), StatusCode::kInvalidArgument) << "a type that does not exist";
  EXPECT_FALSE(with(20, 11).ok()) << "fewer tokens";
  EXPECT_FALSE(with(20, UINT32_MAX).ok()) << "more tokens than bytes";
  EXPECT_EQ(with(24, 13).code(), StatusCode::kCorrupt) << "more cached tokens than tokens";
  EXPECT_EQ(with(24, 11).code(), StatusCode::kCorrupt) << "a cache of another size";
  EXPECT_FALSE(with(32, 1).ok()) << "a cache of 4 GiB";
  EXPECT_EQ(with(36, 101).code(), StatusCode::kCorrupt) << "a token beyond the vocabulary";
  EXPECT_EQ(s.position(), 12u);
  EXPECT_EQ(saved(s), state) << "nothing has changed";

  const Status wrong = another.session->load_state(state);
  EXPECT_EQ(wrong.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(wrong.message().find("another file"), std::string::npos) << wrong.message();
  SessionParams params;
  params.kv_dtype = Dtype::kF32;
  Bench wide = make_bench(model, params);
  EXPECT_EQ(wide.session->load_state(state).code(), StatusCode::kInvalidArgument);
  params = {};
  params.context = 11;
  Bench short_one = make_bench(model, params);
  EXPECT_EQ(short_one.session->load_state(state).code(), StatusCode::kLimit);
  params = {};
  params.sequences = 2;
  Bench several = make_bench(model, params);
  EXPECT_EQ(several.session->state_bytes().status().code(), StatusCode::kUnsupported);
  EXPECT_EQ(several.session->load_state(state).code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace nwc::test
