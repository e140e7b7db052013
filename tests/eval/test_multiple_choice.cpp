#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/model/tokenizer.h"
#include "tests/engine/model_fixture.h"
#include "tests/test_paths.h"
#include "trainer/eval/evaluate.h"
#include "trainer/eval/multiple_choice.h"

namespace nwc::test {
namespace {

/// One token a character; 0 in front, as BOS.
Result<std::vector<uint32_t>> encode_characters(const std::string& text) {
  std::vector<uint32_t> tokens = {0};
  for (char c : text) tokens.push_back(static_cast<uint32_t>(static_cast<unsigned char>(c)) % 101);
  return tokens;
}

/// Log-likelihood of `choice` behind `context`, one evaluation from scratch.
double direct(Session& session, const std::string& context, const std::string& choice) {
  const std::vector<uint32_t> tokens = *encode_characters(context + choice);
  const std::vector<float> logits = all_logits(session, tokens);
  double sum = 0;
  for (size_t i = context.size() + 1; i < tokens.size(); ++i) {
    const auto row = std::span(logits).subspan((i - 1) * 101, 101);
    sum += row[tokens[i]] - log_sum_exp(row);
  }
  return sum;
}

TEST(MultipleChoice, ChoosesAsADirectComputationDoes) {
  Bench bench = make_bench(random_model(small_record(), 1), {});
  Session& s = *bench.session;
  std::vector<ChoiceItem> items;
  std::mt19937 rng(2);
  const auto text = [&](size_t length) {
    std::string t;
    for (size_t i = 0; i < length; ++i) t += static_cast<char>('a' + rng() % 26);
    return t;
  };
  uint64_t right = 0, right_normalized = 0;
  std::vector<uint32_t> chosen, chosen_normalized;
  for (int i = 0; i < 30; ++i) {
    ChoiceItem item;
    item.context = text(5 + rng() % 30);
    double best = -1e30, best_normalized = -1e30;
    uint32_t at = 0, at_normalized = 0;
    for (uint32_t c = 0; c < 4; ++c) {
      item.choices.push_back(text(1 + rng() % 9));
      const double score = direct(s, item.context, " " + item.choices[c]);
      const double normalized = score / static_cast<double>(item.choices[c].size());
      if (score > best) best = score, at = c;
      if (normalized > best_normalized) best_normalized = normalized, at_normalized = c;
    }
    item.answer = static_cast<uint32_t>(rng() % 4);
    right += at == item.answer;
    right_normalized += at_normalized == item.answer;
    chosen.push_back(at);
    chosen_normalized.push_back(at_normalized);
    items.push_back(item);
  }
  const auto result = evaluate_choices(s, encode_characters, items, {});
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->items, 30u);
  EXPECT_EQ(result->chosen, chosen);
  EXPECT_EQ(result->chosen_normalized, chosen_normalized);
  EXPECT_NE(chosen, chosen_normalized) << "the two rules must differ somewhere";
  EXPECT_DOUBLE_EQ(result->accuracy, static_cast<double>(right) / 30);
  EXPECT_DOUBLE_EQ(result->accuracy_normalized, static_cast<double>(right_normalized) / 30);
  EXPECT_NEAR(result->accuracy_se, std::sqrt(result->accuracy * (1 - result->accuracy) / 29), 1e-12);
}

/// What lm-evaluation-harness finds with the same model (tests/scripts/make_choices_fixture.py).
TEST(MultipleChoice, AgreesWithLmEvaluationHarness) {
  std::ifstream in(source_path("tests/fixtures/choices/made_up.json"));
  if (!in) GTEST_SKIP() << "tests/fixtures/choices is not here";
  const nlohmann::json fixture = nlohmann::json::parse(in);
  std::string lines;
  for (const nlohmann::json& item : fixture["items"]) lines += item.dump() + "\n";
  const auto items = parse_choice_items(lines);
  ASSERT_TRUE(items.ok()) << items.status().message();
  const std::string path = source_path("models/gutenlm-2.6m");
  const auto source = open_model_source(path);
  ASSERT_TRUE(source.ok()) << source.status().message();
  const auto tokenizer = Tokenizer::create(*(*source)->tokenizer());
  ASSERT_TRUE(tokenizer.ok());
  SessionParams params;
  params.weight_dtype = params.kv_dtype = Dtype::kF32;
  Bench bench = make_bench(load_model(path), params);
  ASSERT_NE(bench.session, nullptr);
  const auto encode = [&](const std::string& text) { return (*tokenizer)->encode(text, {}); };
  const auto result = evaluate_choices(*bench.session, encode, *items, {});
  ASSERT_TRUE(result.ok()) << result.status().message();
  for (size_t i = 0; i < items->size(); ++i) {
    const auto expected = fixture["scores"][i].get<std::vector<double>>();
    ASSERT_EQ(result->scores[i].size(), expected.size());
    for (size_t c = 0; c < expected.size(); ++c)
      EXPECT_NEAR(result->scores[i][c], expected[c], 1e-3) << "item " << i << ", choice " << c;
  }
  EXPECT_DOUBLE_EQ(result->accuracy, fixture["acc"].get<double>());
  EXPECT_DOUBLE_EQ(result->accuracy_normalized, fixture["acc_norm"].get<double>());
}

/// WinoGrande: the choices stand in the contexts, and what comes behind is scored.
TEST(MultipleChoice, EachChoiceMayHaveAContextOfItsOwn) {
  Bench bench = make_bench(random_model(small_record(), 6), {});
  const auto items = parse_choice_items(
      "{\"contexts\": [\"one thing\", \"another\"], \"choices\": [\"was here\", \"was here\"], \"answer\": 1}");
  ASSERT_TRUE(items.ok()) << items.status().message();
  const auto result = evaluate_choices(*bench.session, encode_characters, *items, {});
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_NEAR(result->scores[0][0], direct(*bench.session, "one thing", " was here"), 1e-3);
  EXPECT_NEAR(result->scores[0][1], direct(*bench.session, "another", " was here"), 1e-3);
  EXPECT_EQ(parse_choice_items("{\"contexts\": [\"a\"], \"choices\": [\"b\", \"c\"], \"answer\": 0}").status().code(),
            StatusCode::kCorrupt);
}

TEST(MultipleChoice, LongContextsLoseTheirStart) {
  SessionParams params;
  params.context = 20;
  Bench bench = make_bench(random_model(small_record(), 3), params);
  ChoiceItem item{std::string(60, 'x') + "abc ", {"yes", "no", "perhaps"}, 0};
  EXPECT_TRUE(evaluate_choices(*bench.session, encode_characters, {&item, 1}, {}).ok());
  item.choices[1] = std::string(25, 'n');
  const Status status = evaluate_choices(*bench.session, encode_characters, {&item, 1}, {}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("item 0: choice 1"), std::string::npos) << status.message();
}

TEST(MultipleChoice, NeedsTokensOnBothSides) {
  Bench bench = make_bench(random_model(small_record(), 4), {});
  const auto without_bos = [](const std::string& text) -> Result<std::vector<uint32_t>> {
    std::vector<uint32_t> tokens = *encode_characters(text);
    tokens.erase(tokens.begin());
    return tokens;
  };
  ChoiceItem item{"", {"a", "b"}, 1};
  EXPECT_EQ(evaluate_choices(*bench.session, without_bos, {&item, 1}, {}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(evaluate_choices(*bench.session, encode_characters, {&item, 1}, {}).ok());
  const auto nothing = [](const std::string&) -> Result<std::vector<uint32_t>> { return std::vector<uint32_t>{5}; };
  EXPECT_EQ(evaluate_choices(*bench.session, nothing, {&item, 1}, {}).status().code(), StatusCode::kInvalidArgument);
  Progress cancel;
  cancel.callback = [](void*, uint64_t, uint64_t) { return false; };
  EXPECT_EQ(evaluate_choices(*bench.session, encode_characters, {&item, 1}, cancel).status().code(),
            StatusCode::kCancelled);
  EXPECT_EQ(evaluate_choices(*bench.session, encode_characters, {}, {})->items, 0u);
}

TEST(MultipleChoice, ParsesLinesAndNamesBadOnes) {
  const auto good = parse_choice_items(
      "{\"context\": \"The sky is\", \"choices\": [\"blue\", \"made of \\u00e9tain\"], \"answer\": 1, \"id\": 7}\r\n"
      "\n{\"context\": \"\", \"choices\": [\"a\", \"b\"], \"answer\": 0}");
  ASSERT_TRUE(good.ok()) << good.status().message();
  ASSERT_EQ(good->size(), 2u);
  EXPECT_EQ((*good)[0].context, "The sky is");
  EXPECT_EQ((*good)[0].choices[1], "made of \xc3\xa9tain");
  EXPECT_EQ((*good)[0].answer, 1u);
  EXPECT_TRUE(parse_choice_items("")->empty());

  const std::string fine = "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"answer\": 0}\n";
  for (const char* bad :
       {"{", "[]", "3", "{\"context\": 1, \"choices\": [\"a\", \"b\"], \"answer\": 0}",
        "{\"context\": \"c\", \"choices\": [\"a\"], \"answer\": 0}", "{\"context\": \"c\", \"answer\": 0}",
        "{\"context\": \"c\", \"choices\": [\"a\", \"\"], \"answer\": 0}",
        "{\"context\": \"c\", \"choices\": [\"a\", 2], \"answer\": 0}",
        "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"answer\": 2}",
        "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"answer\": -1}",
        "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"answer\": \"0\"}",
        "{\"context\": \"c\", \"choices\": [\"a\", \"b\"]}"}) {
    const Status status = parse_choice_items(fine + bad + "\n" + fine).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << bad;
    EXPECT_NE(status.message().find("line 2"), std::string::npos) << status.message();
  }
  EXPECT_EQ(parse_choice_items("{\"context\": \"" + std::string(1u << 20, 'x') + "\"}").status().code(),
            StatusCode::kLimit);
}

}  // namespace
}  // namespace nwc::test
