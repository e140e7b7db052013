// Text that a model writes itself: drawn from its predictions, the same at any number of threads and with any budget,
// in documents and, of an instruct model, in conversations.
#include <filesystem>
#include <fstream>

#include "tests/engine/model_fixture.h"
#include "trainer/text/kept_tokens.h"
#include "trainer/text/self_text.h"

namespace nwc::test {
namespace {

constexpr uint32_t kBos = 1, kEos = 3, kUser = 90, kEndOfTurn = 91, kAssistant = 92;

PlainModel instruct_model() {
  PlainModel model = random_model(small_record(), 5);
  TokenizerRecord tokenizer;
  for (uint32_t t = 0; t < model.record.vocab_size; ++t) {
    TokenizerRecord::Token token;
    token.bytes = "<" + std::to_string(t) + ">";
    token.type = t >= kUser || t <= kEos ? TokenType::kControl : TokenType::kNormal;
    tokenizer.tokens.push_back(token);
  }
  tokenizer.bos_id = kBos;
  tokenizer.add_bos = true;
  model.tokenizer = tokenizer;
  return model;
}

ChatRecord chat_of_tokens() {
  ChatFormat format;
  format.name = "tokens";
  format.begin = "<1>";
  format.user_prefix = "<90>";
  format.user_suffix = "<91>";
  format.assistant_prefix = format.open_answer = "<92>";
  format.assistant_suffix = "<91>";
  format.stop = {"<91>"};
  return {.jinja = "", .format = format};
}

Result<std::vector<uint32_t>> write(const NwcFile& file, const SelfTextOptions& options, uint32_t threads = 2,
                                    const Progress& progress = {}) {
  const auto runner = make_thread_pool(threads);
  CountingDecoder decoder(file);
  return write_self_text(file, decoder, *runner, options, progress, {});
}

TEST(SelfText, DrawsFromTheModelsPredictions) {
  const PlainModel model = random_model(small_record(), 4);
  const auto file = make_file(model);
  constexpr uint32_t kContext = 24;
  const auto tokens = write(*file, {.tokens = 200 * kContext, .context = kContext});
  ASSERT_TRUE(tokens.ok()) << tokens.status().message();
  ASSERT_EQ(tokens->size(), 200 * kContext);
  // The mean of log p of what was drawn is the mean of sum p log p, within its standard error.
  SessionParams params;
  Bench bench = make_bench(model, params);
  double difference = 0, variance = 0;
  for (size_t s = 0; s < 200; ++s) {
    bench.session->reset();
    const std::span<const uint32_t> text = std::span(*tokens).subspan(s * kContext, kContext);
    const std::vector<float> logits = all_logits(*bench.session, {text.begin(), text.end()});
    for (uint32_t t = 0; t + 1 < kContext; ++t) {
      const float* row = logits.data() + size_t{t} * 101;
      double sum = 0, mean = 0, square = 0;
      for (uint32_t v = 0; v < 101; ++v) sum += std::exp(double{row[v]});
      for (uint32_t v = 0; v < 101; ++v) {
        const double log_p = double{row[v]} - std::log(sum), p = std::exp(log_p);
        mean += p * log_p;
        square += p * log_p * log_p;
      }
      difference += double{row[text[t + 1]]} - std::log(sum) - mean;
      variance += square - mean * mean;
    }
  }
  EXPECT_LT(std::abs(difference), 4 * std::sqrt(variance));
  EXPECT_GT(variance, 100.0) << "predictions that say nothing test nothing";
}

TEST(SelfText, DoesNotDependOnThreadsOrMemory) {
  const auto file = make_file(random_model(small_record(), 6));
  SelfTextOptions options{.tokens = 10 * 20, .context = 20, .seed = 7};
  const auto text = write(*file, options, 1);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*write(*file, options, 3), *text);
  SessionParams least;
  least.context = 20;
  least.sequences = 10;
  options.memory_budget_bytes = plan_session(*file, least)->needed_streamed;
  EXPECT_EQ(*write(*file, options), *text);
  options.seed = 8;
  EXPECT_NE(*write(*file, options), *text);
  // Rounds of three sequences, and the last one's spare ones left out.
  const auto rounds = write(*file, {.tokens = 10 * 20 - 5, .context = 20, .seed = 7, .max_sequences = 3});
  ASSERT_TRUE(rounds.ok());
  EXPECT_EQ(rounds->size(), 10u * 20);
}

TEST(SelfText, MemoryIsThatOfTheSequencesWrittenTogether) {
  const auto file = make_file(random_model(small_record(), 6));
  SessionParams params;
  params.fit_weight_dtype = true;
  params.context = 20;
  params.sequences = 3;
  const uint64_t logits = sizeof(float) * file->model()->vocab_size;
  const auto bytes = self_text_memory_bytes(*file, {.tokens = 9 * 20, .context = 20, .max_sequences = 4});
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(*bytes, plan_session(*file, params)->total + 3 * logits);
  EXPECT_FALSE(self_text_memory_bytes(*file, {.context = 1}).ok());
}

TEST(SelfText, TextsBeginWithBos) {
  const auto file = make_file(instruct_model());
  const auto tokens = write(*file, {.tokens = 64 * 60, .context = 60});
  ASSERT_TRUE(tokens.ok()) << tokens.status().message();
  size_t ends = 0;
  for (size_t i = 0; i < tokens->size(); ++i) {
    if (i % 60 == 0) {
      EXPECT_EQ((*tokens)[i], kBos);
    }
    if ((*tokens)[i] != kEos || i % 60 == 59) continue;
    EXPECT_EQ((*tokens)[i + 1], kBos) << "behind an end another text begins";
    ++ends;
  }
  EXPECT_GT(ends, 0u);
}

TEST(SelfText, AnInstructModelTalksHalfOfTheTime) {
  PlainModel model = instruct_model();
  model.chat = chat_of_tokens();
  const auto file = make_file(model);
  ASSERT_TRUE(file->chat_status().ok()) << file->chat_status().message();
  const auto tokens = write(*file, {.tokens = 40 * 60, .context = 60});
  ASSERT_TRUE(tokens.ok()) << tokens.status().message();
  size_t answers = 0;
  for (size_t s = 1; s < 40; s += 2) {
    const std::span<const uint32_t> text = std::span(*tokens).subspan(s * 60, 60);
    EXPECT_EQ(text[0], kBos);
    EXPECT_EQ(text[1], kUser);
    bool answering = false;
    for (size_t t = 2; t + 1 < 60; ++t) {
      if (text[t] != kEndOfTurn) {
        const bool plain = text[t] > kEos && text[t] < kUser;
        EXPECT_TRUE(plain || text[t - 1] == kEndOfTurn) << "a turn has plain tokens: " << text[t];
        continue;
      }
      answering = !answering;
      answers += answering;
      EXPECT_EQ(text[t + 1], answering ? kAssistant : kUser);
    }
  }
  EXPECT_GT(answers, 20u);
}

TEST(SelfText, SaysWhatItCannotDo) {
  const auto file = make_file(random_model(small_record(), 6));
  EXPECT_EQ(write(*file, {.tokens = 10, .context = 1}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(write(*file, {.tokens = 10, .context = 301}).status().code(), StatusCode::kInvalidArgument);
  const Progress stop{[](void*, uint64_t done, uint64_t) { return done < 5; }, nullptr};
  EXPECT_EQ(write(*file, {.tokens = 40, .context = 20}, 2, stop).status().code(), StatusCode::kCancelled);
  PlainModel broken = random_model(small_record(), 6);
  store_le(broken.tensors["model.norm.weight"].bytes.data(), std::numeric_limits<float>::infinity());
  EXPECT_EQ(write(*make_file(broken), {.tokens = 40, .context = 20}).status().code(), StatusCode::kCorrupt);
}

TEST(KeptTokens, AreMadeOnce) {
  const std::string path = ::testing::TempDir() + "kept_" + std::to_string(getpid()) + ".tokens";
  const std::vector<uint32_t> tokens = {5, 6, 7, 99};
  int made = 0;
  const auto get = [&](uint32_t vocab) {
    return *kept_tokens(path, vocab, [&]() -> Result<std::vector<uint32_t>> {
      ++made;
      return tokens;
    });
  };
  EXPECT_EQ(get(100), tokens);
  EXPECT_EQ(get(100), tokens);
  EXPECT_EQ(made, 1);
  EXPECT_EQ(get(99), tokens);
  EXPECT_EQ(made, 2) << "tokens of another model";
  const auto size = std::filesystem::file_size(path);
  for (const auto& damage : {std::pair{size - 1, -1}, std::pair{size, 3}, std::pair{size, 20}}) {
    std::filesystem::resize_file(path, damage.first);
    if (damage.second >= 0) {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(damage.second);
      file.put('\x7f');
    }
    const int before = made;
    EXPECT_EQ(get(100), tokens);
    EXPECT_EQ(made, before + 1);
    EXPECT_EQ(std::filesystem::file_size(path), size);
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace nwc::test
