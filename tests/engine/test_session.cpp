// Sessions give the same logits in every mode and with any number of threads, and errors change nothing.
#include "runtime/engine/generate.h"
#include "tests/engine/model_fixture.h"

namespace nwc::test {
namespace {

SessionParams with_mode(SessionMode mode, uint64_t budget = 0) {
  SessionParams params;
  params.mode = mode;
  params.memory_budget_bytes = budget;
  params.batch = 32;
  return params;
}

TEST(Session, EveryModeGivesTheSameBits) {
  for (bool tied : {true, false}) {
    ModelRecord record = wide_record();
    record.tied_embeddings = tied;
    const PlainModel model = random_model(record, 1);
    const std::vector<uint32_t> tokens = random_tokens(70, record.vocab_size, 2);
    Bench resident = make_bench(model, with_mode(SessionMode::kResident));
    ASSERT_EQ(resident.session->plan().mode, SessionMode::kResident);
    const std::vector<float> expected = all_logits(*resident.session, tokens);

    // Streamed, and nothing but the least in memory: embedding by rows, head by bands.
    Bench least = make_bench(model, with_mode(SessionMode::kStreamed, resident.session->plan().needed_streamed));
    EXPECT_EQ(least.session->plan().resident_layers, 0u);
    EXPECT_FALSE(least.session->plan().head_resident);
    EXPECT_EQ(all_logits(*least.session, tokens), expected);
    EXPECT_EQ(all_logits(*least.session, tokens), expected) << "a second pass";

    Bench streamed = make_bench(model, with_mode(SessionMode::kStreamed));
    EXPECT_TRUE(streamed.session->plan().head_resident);
    EXPECT_EQ(all_logits(*streamed.session, tokens), expected);

    const MemoryPlan& s = streamed.session->plan();
    Bench cached = make_bench(model, with_mode(SessionMode::kCached, s.total + s.layer_buffers / 2 + 64));
    EXPECT_EQ(cached.session->plan().mode, SessionMode::kCached);
    EXPECT_EQ(cached.session->plan().resident_layers, 1u);
    EXPECT_EQ(all_logits(*cached.session, tokens), expected);

    // Nothing is coded here: single tokens multiply by matrices that are read one after another.
    Bench fused = make_bench(model, with_mode(SessionMode::kFused));
    EXPECT_EQ(fused.session->plan().mode, SessionMode::kFused);
    EXPECT_EQ(all_logits(*fused.session, tokens), expected);
    std::vector<float> one(record.vocab_size), other(record.vocab_size);
    for (Bench* b : {&fused, &streamed}) b->session->reset();
    for (size_t i = 0; i < 3; ++i) {
      const auto token = std::span(tokens).subspan(i, 1);
      ASSERT_TRUE(fused.session->eval(token, LogitsWanted::kLast, one).ok());
      ASSERT_TRUE(streamed.session->eval(token, LogitsWanted::kLast, other).ok());
      EXPECT_EQ(one, other);
    }
  }
}

TEST(Session, ThreadsDoNotChangeTheBits) {
  const PlainModel model = random_model(small_record(), 3);
  const std::vector<uint32_t> tokens = random_tokens(120, 101, 4);
  for (CpuLevel level : kCpuLevels) {
    SessionParams params;
    params.max_cpu = level;
    Bench one = make_bench(model, params, 1);
    const std::vector<float> expected = all_logits(*one.session, tokens);
    for (uint32_t threads : {2u, 3u, 7u}) {
      Bench many = make_bench(model, params, threads);
      EXPECT_EQ(all_logits(*many.session, tokens), expected) << threads;
    }
  }
}

TEST(Session, BatchesAgreeWithTokenByToken) {
  const PlainModel model = random_model(small_record(), 5);
  const std::vector<uint32_t> tokens = random_tokens(130, 101, 6);
  SessionParams params;
  params.kv_dtype = Dtype::kF32;
  Bench bench = make_bench(model, params);
  Session& s = *bench.session;
  const std::vector<float> batched = all_logits(s, tokens);
  s.reset();
  std::vector<float> single(tokens.size() * 101);
  for (size_t i = 0; i < tokens.size(); ++i) {
    ASSERT_TRUE(s.eval({&tokens[i], 1}, LogitsWanted::kLast, std::span(single).subspan(i * 101, 101)).ok());
  }
  EXPECT_EQ(s.position(), tokens.size());
  EXPECT_LT(largest_difference(batched, single), 5e-5f);

  // kLast is the last row of kAll, and logits() gives any of the last batch.
  std::vector<float> last(101), some(3 * 101);
  s.reset();
  ASSERT_TRUE(s.eval(tokens, LogitsWanted::kLast, last).ok());
  EXPECT_LT(largest_difference(last, std::span(batched).last(101)), 5e-5f);
  ASSERT_EQ(s.last_batch(), 2u) << "130 = 128 + 2";
  s.reset();
  ASSERT_TRUE(s.eval(std::span(tokens).first(100), LogitsWanted::kNone, {}).ok());
  ASSERT_TRUE(s.logits(40, 3, some).ok());
  EXPECT_LT(largest_difference(some, std::span(batched).subspan(40 * 101, 303)), 5e-5f);
  EXPECT_EQ(s.logits(98, 3, some).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(s.logits(0, 3, std::span(some).first(300)).code(), StatusCode::kBufferTooSmall);
}

// Each sequence gets what it would get alone, whatever the others read, in every mode and at any number of threads.
TEST(Session, SequencesSideBySideDoNotKnowOfEachOther) {
  ModelRecord record = wide_record();
  const PlainModel model = random_model(record, 31);
  constexpr uint32_t kSequences = 5, kTokens = 110;  // more than a block of the KV cache
  const size_t vocab = record.vocab_size;
  std::vector<std::vector<uint32_t>> texts;
  for (uint32_t s = 0; s < kSequences; ++s) texts.push_back(random_tokens(kTokens, record.vocab_size, 40 + s));
  const auto run = [&](SessionParams params, uint32_t threads) {
    params.sequences = kSequences;
    params.context = kTokens;
    Bench bench = make_bench(model, params, threads);
    std::vector<float> all, logits(kSequences * vocab);
    for (uint32_t t = 0; t < kTokens; ++t) {
      std::vector<uint32_t> tokens;
      for (const std::vector<uint32_t>& text : texts) tokens.push_back(text[t]);
      EXPECT_TRUE(bench.session->step(tokens, logits).ok());
      all.insert(all.end(), logits.begin(), logits.end());
    }
    EXPECT_EQ(bench.session->position(), kTokens);
    EXPECT_EQ(bench.session->step(std::vector<uint32_t>(kSequences), logits).code(), StatusCode::kLimit);
    bench.session->reset();
    EXPECT_TRUE(bench.session->step(std::vector<uint32_t>(kSequences, texts[2][0]), logits).ok());
    for (uint32_t s = 0; s < kSequences; ++s)
      EXPECT_TRUE(std::equal(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(vocab),
                             logits.begin() + static_cast<std::ptrdiff_t>(s * vocab)));
    EXPECT_LE(bench.session->allocated_bytes(), bench.session->plan().total);
    return all;
  };
  SessionParams params;
  params.kv_dtype = Dtype::kF32;
  const std::vector<float> together = run(params, 2);
  EXPECT_EQ(run(params, 1), together);
  EXPECT_EQ(run(params, 3), together);
  params.mode = SessionMode::kStreamed;
  EXPECT_EQ(run(params, 2), together);
  params.mode = SessionMode::kResident;
  Bench alone = make_bench(model, params);
  for (uint32_t s = 0; s < kSequences; ++s) {
    const std::vector<float> expected = all_logits(*alone.session, texts[s]);
    std::vector<float> got;
    for (uint32_t t = 0; t < kTokens; ++t) {
      const auto row = together.begin() + static_cast<std::ptrdiff_t>((size_t{t} * kSequences + s) * vocab);
      got.insert(got.end(), row, row + static_cast<std::ptrdiff_t>(vocab));
    }
    EXPECT_LT(largest_difference(got, expected), 5e-5f) << s;
  }
}

TEST(Session, SequencesSideBySideAreCheckedFirst) {
  const PlainModel model = random_model(small_record(), 33);
  SessionParams params;
  params.sequences = 3;
  params.context = 8;
  Bench bench = make_bench(model, params);
  Session& s = *bench.session;
  std::vector<float> logits(3 * 101);
  const std::vector<uint32_t> tokens = {1, 2, 3};
  EXPECT_EQ(s.step(std::span(tokens).first(2), logits).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(s.step(std::vector<uint32_t>{1, 101, 2}, logits).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(s.step(tokens, std::span(logits).first(302)).code(), StatusCode::kBufferTooSmall);
  EXPECT_EQ(s.eval(tokens, LogitsWanted::kLast, logits).code(), StatusCode::kUnsupported);
  EXPECT_EQ(s.append(1).code(), StatusCode::kUnsupported);
  EXPECT_EQ(s.position(), 0u);
  EXPECT_TRUE(s.step(tokens, logits).ok());
  params.compute = Compute::kVulkan;
  EXPECT_EQ(plan_session(*bench.file, params).status().code(), StatusCode::kUnsupported);
  params.compute = Compute::kCpu;
  params.sequences = 0;
  EXPECT_EQ(plan_session(*bench.file, params).status().code(), StatusCode::kUnsupported);
}

TEST(Session, TruncateForgets) {
  const PlainModel model = random_model(small_record(), 7);
  const std::vector<uint32_t> tokens = random_tokens(60, 101, 8);
  Bench bench = make_bench(model, {});
  Session& s = *bench.session;
  const std::vector<float> expected = all_logits(s, tokens);
  const std::vector<uint32_t> other = random_tokens(30, 101, 9);
  ASSERT_TRUE(s.eval(other, LogitsWanted::kNone, {}).ok());
  EXPECT_EQ(s.truncate(91).code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(s.truncate(40).ok());
  std::vector<float> again(20 * 101);
  ASSERT_TRUE(s.eval(std::span(tokens).subspan(40), LogitsWanted::kAll, again).ok());
  EXPECT_LT(largest_difference(again, std::span(expected).subspan(40 * 101)), 5e-5f);
}

TEST(Session, WrongCallsAreRejectedAndChangeNothing) {
  const PlainModel model = random_model(small_record(), 10);
  SessionParams params;
  params.context = 50;
  Bench bench = make_bench(model, params);
  Session& s = *bench.session;
  std::vector<uint32_t> tokens = random_tokens(30, 101, 11);
  std::vector<float> logits(30 * 101);
  ASSERT_TRUE(s.eval(tokens, LogitsWanted::kNone, {}).ok());
  EXPECT_EQ(s.eval({}, LogitsWanted::kNone, {}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(s.eval(tokens, LogitsWanted::kAll, logits).code(), StatusCode::kLimit);
  EXPECT_EQ(s.eval(std::span(tokens).first(5), LogitsWanted::kAll, std::span(logits).first(5 * 101 - 1)).code(),
            StatusCode::kBufferTooSmall);
  tokens[4] = 101;
  const Status status = s.eval(std::span(tokens).first(5), LogitsWanted::kAll, logits);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("101"), std::string::npos);
  EXPECT_EQ(s.position(), 30u);
  tokens[4] = 0;
  EXPECT_TRUE(s.eval(std::span(tokens).first(20), LogitsWanted::kAll, logits).ok()) << "exactly full";
  EXPECT_EQ(s.eval(std::span(tokens).first(1), LogitsWanted::kNone, {}).code(), StatusCode::kLimit);
}

TEST(Session, DecoderFailureRollsBackAndCanBeRetried) {
  const PlainModel model = random_model(wide_record(), 12);
  const std::vector<uint32_t> tokens = random_tokens(40, model.record.vocab_size, 13);
  Bench resident = make_bench(model, with_mode(SessionMode::kResident));
  const std::vector<float> expected = all_logits(*resident.session, tokens);
  const uint64_t budget = resident.session->plan().needed_streamed;
  for (const char* name : {"model.layers.0.mlp.up_proj.weight", "model.layers.3.self_attn.k_proj.weight",
                           "model.layers.4.mlp.down_proj.weight", "model.embed_tokens.weight"}) {
    Bench bench = make_bench(model, with_mode(SessionMode::kStreamed, budget));
    std::vector<float> logits(40 * size_t{model.record.vocab_size});
    ASSERT_TRUE(bench.session->eval(std::span(tokens).first(20), LogitsWanted::kNone, {}).ok());
    bench.decoder->fail_always(name);
    Status status;
    // A layer decoded ahead may have escaped: the failure shows at the latest one batch later.
    for (int i = 0; i < 3 && status.ok(); ++i) {
      bench.session->reset();
      status = bench.session->eval(tokens, LogitsWanted::kAll, logits);
    }
    EXPECT_EQ(status.code(), StatusCode::kChecksum) << name;
    EXPECT_EQ(bench.session->position(), 0u);
    bench.decoder->stop_failing();
    EXPECT_EQ(all_logits(*bench.session, tokens), expected) << name;
  }
  auto decoder = CountingDecoder(*resident.file);
  decoder.fail_once("model.norm.weight");
  auto session = Session::create(*resident.file, decoder, *resident.runner, {});
  EXPECT_EQ(session.status().code(), StatusCode::kChecksum);
}

TEST(Session, ProgressCancelsLoading) {
  const PlainModel model = random_model(small_record(), 14);
  const std::unique_ptr<NwcFile> file = make_file(model);
  CountingDecoder decoder(*file);
  auto runner = make_thread_pool(1);
  std::vector<uint64_t> seen;
  Progress progress;
  progress.user = &seen;
  progress.callback = [](void* user, uint64_t done, uint64_t total) {
    static_cast<std::vector<uint64_t>*>(user)->push_back(done);
    return total == 6 && done < 3;
  };
  EXPECT_EQ(Session::create(*file, decoder, *runner, {}, {}, progress).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(seen, (std::vector<uint64_t>{0, 1, 2, 3}));
}

TEST(Session, HostileModelsAreRejectedByName) {
  const auto expect = [](const PlainModel& model, StatusCode code, const std::string& name) {
    const std::unique_ptr<NwcFile> file = make_file(model);
    ASSERT_NE(file, nullptr);
    CountingDecoder decoder(*file);
    auto runner = make_thread_pool(1);
    const Status status = Session::create(*file, decoder, *runner, {}).status();
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  };
  const PlainModel good = random_model(small_record(), 15);
  for (const auto& [name, tensor] : good.tensors) {
    PlainModel bad = good;
    bad.tensors.erase(name);
    expect(bad, StatusCode::kCorrupt, name);
    bad = good;
    bad.tensors[name].shape.push_back(1);
    expect(bad, StatusCode::kCorrupt, name);
  }
  PlainModel bad = good;
  std::swap(bad.tensors["model.layers.2.self_attn.o_proj.weight"].shape[0],
            bad.tensors["model.layers.2.self_attn.o_proj.weight"].shape[1]);
  expect(bad, StatusCode::kCorrupt, "model.layers.2.self_attn.o_proj.weight");
  bad = good;
  bad.tensors["model.norm.weight"].dtype = Dtype::kI32;
  expect(bad, StatusCode::kUnsupported, "model.norm.weight");
  bad = good;
  bad.tensors["model.layers.1.self_attn.v_proj.bias"] = good.tensors.at("model.norm.weight");
  expect(bad, StatusCode::kUnsupported, "model.layers.1.self_attn.v_proj.bias");
  bad = good;
  bad.record.tied_embeddings = false;
  expect(bad, StatusCode::kCorrupt, "lm_head.weight");
  bad = good;
  bad.record.num_layers = 4096;
  expect(bad, StatusCode::kCorrupt, "model.layers.5.self_attn.q_proj.weight");
  bad = good;
  bad.with_record = false;
  expect(bad, StatusCode::kUnsupported, "no model description");
  bad = good;
  bad.record_bytes = serialize(good.record);
  bad.record_bytes[0] = 3;
  expect(bad, StatusCode::kUnsupported, "record version 3");
  bad.record_bytes = serialize(good.record);
  bad.record_bytes[44] = 7;
  expect(bad, StatusCode::kUnsupported, "rope_scaling is 7");
  bad.record_bytes.resize(3);
  expect(bad, StatusCode::kTruncated, "MODEL");
}

TEST(Session, GenerateStopsWhereItShould) {
  const PlainModel model = random_model(small_record(), 16);
  SessionParams params;
  params.context = 40;
  Bench bench = make_bench(model, params);
  const auto run = [&](GenerateParams g, uint64_t seed, uint32_t stop_after) {
    auto sampler = Sampler::create({.temperature = 1.0f, .top_k = 0, .top_p = 1.0f, .seed = seed});
    bench.session->reset();
    std::vector<uint32_t> out;
    const uint32_t prompt[] = {1, 2, 5};
    EXPECT_TRUE(generate(*bench.session, *sampler, prompt, g, [&](uint32_t token) {
                  out.push_back(token);
                  return out.size() != stop_after;
                }).ok());
    EXPECT_EQ(bench.session->position(), 3 + out.size()) << "what was reported is in the sequence";
    return out;
  };
  EXPECT_EQ(run({.max_tokens = 10, .stop_at_eos = false}, 1, 0).size(), 10u);
  EXPECT_EQ(run({.max_tokens = 10, .stop_at_eos = false}, 1, 4).size(), 4u);
  EXPECT_EQ(run({.max_tokens = 10, .stop_at_eos = false}, 1, 0), run({.max_tokens = 10, .stop_at_eos = false}, 1, 0));
  EXPECT_EQ(run({.max_tokens = 1000, .stop_at_eos = false}, 1, 0).size(), 37u) << "all that the context holds";
  // Among many seeds the end token comes up; it is never reported.
  bool stopped = false;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const std::vector<uint32_t> out = run({.max_tokens = 1000, .stop_at_eos = true}, seed, 0);
    EXPECT_EQ(std::count(out.begin(), out.end(), 3u), 0);
    stopped = stopped || out.size() < 37;
  }
  EXPECT_TRUE(stopped);
}

// A second turn goes on after the last token that the first one reported, however the first one ended.
TEST(Session, SecondTurnRemembersTheLastToken) {
  const PlainModel model = random_model(small_record(), 17);
  for (const SessionMode mode : {SessionMode::kResident, SessionMode::kStreamed}) {
    SessionParams params;
    params.mode = mode;
    for (const uint32_t stop_after : {1u, 6u, 99u}) {
      Bench bench = make_bench(model, params);
      auto sampler = Sampler::create({.temperature = 1.0f, .top_k = 0, .top_p = 1.0f, .seed = 5});
      const std::vector<uint32_t> prompt = {1, 2, 5}, second = {7, 9};
      std::vector<uint32_t> all = prompt;
      const auto reason =
          generate(*bench.session, *sampler, prompt, {.max_tokens = 8, .stop_at_eos = false}, [&](uint32_t token) {
            all.push_back(token);
            return all.size() != prompt.size() + stop_after;
          });
      ASSERT_TRUE(reason.ok());
      EXPECT_EQ(*reason, stop_after == 99 ? StopReason::kMaxTokens : StopReason::kCallback);
      ASSERT_EQ(bench.session->position(), all.size());
      std::vector<float> turn(second.size() * model.record.vocab_size);
      ASSERT_TRUE(bench.session->eval(second, LogitsWanted::kAll, turn).ok());
      all.insert(all.end(), second.begin(), second.end());
      bench.session->reset();
      const std::vector<float> whole = all_logits(*bench.session, all);
      for (size_t i = 0; i < turn.size(); ++i) ASSERT_NEAR(turn[i], whole[whole.size() - turn.size() + i], 2e-3) << i;
    }
  }
}

TEST(Session, AppendedTokensCountAndCanBeTakenBack) {
  const PlainModel model = random_model(small_record(), 18);
  SessionParams params;
  params.context = 6;
  params.batch = 2;
  Bench bench = make_bench(model, params);
  Session& s = *bench.session;
  std::vector<float> logits(s.vocab_size()), again(s.vocab_size());
  EXPECT_EQ(s.eval({}, LogitsWanted::kLast, logits).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(s.append(s.vocab_size()).code(), StatusCode::kInvalidArgument);
  const uint32_t tokens[] = {1, 2, 3, 4, 5, 6};
  ASSERT_TRUE(s.eval(std::span(tokens, 5), LogitsWanted::kLast, logits).ok());
  for (uint32_t i = 0; i < 5; ++i) {
    s.reset();
    ASSERT_TRUE(s.eval(std::span(tokens, i + 1), LogitsWanted::kNone, {}).ok());
    ASSERT_TRUE(s.append(7).ok());
    ASSERT_TRUE(s.truncate(i + 1).ok());
    for (uint32_t t = i + 1; t < 5; ++t) ASSERT_TRUE(s.append(tokens[t]).ok());
    EXPECT_EQ(s.position(), 5u);
    if (i == 4) break;
    ASSERT_TRUE(s.eval({}, LogitsWanted::kLast, again).ok());
    for (size_t l = 0; l < logits.size(); ++l) ASSERT_NEAR(again[l], logits[l], 2e-3);
  }
  ASSERT_TRUE(s.append(6).ok());
  EXPECT_EQ(s.append(6).code(), StatusCode::kLimit);
  EXPECT_EQ(s.eval(std::span(tokens, 1), LogitsWanted::kNone, {}).code(), StatusCode::kLimit);
  EXPECT_EQ(s.position(), 6u);
}

// Every position at which the end token may be drawn, the first one without room for it among them.
TEST(Session, EndTokenIsTheReasonEvenWithoutRoom) {
  const PlainModel model = random_model(small_record(), 16);
  bool at_the_end = false, without_room = false;
  for (uint32_t context = 4; context < 7; ++context) {
    SessionParams params;
    params.context = context;
    Bench bench = make_bench(model, params);
    for (uint64_t seed = 0; seed < 200; ++seed) {
      auto sampler = Sampler::create({.temperature = 1.0f, .top_k = 0, .top_p = 1.0f, .seed = seed});
      bench.session->reset();
      const uint32_t prompt[] = {1, 2, 5};
      uint32_t free_run[16] = {}, num_free = 0;  // what is drawn, end tokens and all
      auto same = Sampler::create({.temperature = 1.0f, .top_k = 0, .top_p = 1.0f, .seed = seed});
      std::vector<float> logits(bench.session->vocab_size());
      ASSERT_TRUE(bench.session->eval(prompt, LogitsWanted::kLast, logits).ok());
      for (;;) {
        free_run[num_free++] = same->sample(logits);
        if (free_run[num_free - 1] == 3 || bench.session->position() == context) break;
        ASSERT_TRUE(bench.session->eval({&free_run[num_free - 1], 1}, LogitsWanted::kLast, logits).ok());
      }
      bench.session->reset();
      uint32_t reported = 0;
      const auto reason = generate(*bench.session, *sampler, prompt, {.max_tokens = 1000, .stop_at_eos = true},
                                   [&](uint32_t) { return ++reported != 0; });
      ASSERT_TRUE(reason.ok());
      const bool ended = free_run[num_free - 1] == 3;
      EXPECT_EQ(*reason, ended ? StopReason::kEos : StopReason::kContextFull) << context << " " << seed;
      EXPECT_EQ(reported, num_free - 1);
      at_the_end |= ended && num_free == context - 3 + 1;
      without_room |= !ended;
    }
  }
  EXPECT_TRUE(at_the_end && without_room);
}

}  // namespace
}  // namespace nwc::test
