// Whole tokenizer.json files of every model, normalizer and option, made by scripts/fixtures/trained_tokenizers.py: the
// ids are those of the reference library, also after the record was written and read, and after tokenizer.json was made
// of it again.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/model/tokenizer.h"
#include "runtime/model/unicode.h"
#include "tests/model/tokenizer_fixtures.h"
#include "trainer/data/hf_pre_tokenizer.h"
#include "trainer/data/hf_tokenizer.h"
#include "trainer/data/hf_write.h"

namespace nwc {
namespace {

/// Those that the script has taken.
std::vector<std::string> short_strings() {
  std::vector<std::string> strings = fixture_strings();
  std::erase_if(strings, [](const std::string& text) {
    size_t characters = 0;
    for (size_t pos = 0; pos < text.size(); ++characters) pos += decode_utf8(text, pos).length;
    return text.size() > 120 || characters > 40;
  });
  return strings;
}

TokenizerRecord load(const std::string& name) {
  SourceNotes notes;
  Result<TokenizerRecord> record = parse_hf_tokenizer(read_fixture(name + ".json"), std::nullopt, &notes);
  EXPECT_TRUE(record.ok()) << name << ": " << record.status().message();
  EXPECT_TRUE(validate(*record).ok());
  return std::move(record).value();
}

void expect_ids(const TokenizerRecord& record, const std::string& name) {
  const auto tokenizer = Tokenizer::create(record);
  ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status().message();
  const std::vector<std::string> strings = short_strings();
  const std::vector<std::string> lines = fixture_lines(name + ".json.ids");
  ASSERT_GT(strings.size(), 200u);
  ASSERT_EQ(strings.size(), lines.size());
  for (size_t i = 0; i < strings.size(); ++i) {
    // The reference finds byte tokens that a text spells out, because they are in the vocabulary; SentencePiece does not.
    if (record.kind == TokenizerKind::kUnigram && strings[i].find("<0x") != std::string::npos) continue;
    const auto ids = (*tokenizer)->encode(strings[i], {.add_special = true, .add_end = true, .parse_special = true});
    ASSERT_TRUE(ids.ok()) << name << ": " << ids.status().message();
    EXPECT_EQ(*ids, parse_id_list(lines[i])) << name << ", string " << i << ": " << strings[i];
  }
}

class TokenizerJsonTest : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerJsonTest, IdsEqualTheReference) {
  const std::string name = GetParam();
  const TokenizerRecord record = load(name);
  expect_ids(record, name);
  const std::vector<uint8_t> bytes = serialize(record);
  const auto again = parse_tokenizer_record(bytes, 0);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(serialize(*again), bytes);
  expect_ids(*again, name);
  const auto json = make_hf_tokenizer(record);
  if (!json.ok()) {
    EXPECT_EQ(json.status().code(), StatusCode::kUnsupported);
    return;
  }
  SourceNotes notes;
  const auto back = parse_hf_tokenizer({reinterpret_cast<const uint8_t*>(json->data()), json->size()}, {}, &notes);
  ASSERT_TRUE(back.ok()) << back.status().message();
  expect_ids(*back, name);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerJsonTest,
                         testing::Values("added_options", "added_raw", "nfkd", "nfkc", "nfc", "replace", "gemma",
                                         "llama2_normalized", "unfused", "unigram", "unigram_bytes", "unigram_words",
                                         "word_piece", "word_piece_cased"),
                         [](const auto& param_info) { return std::string(param_info.param); });

// The patterns of test_pre_tokenizer's vectors are recognised, and written again as what is recognised as the same.
TEST(TokenizerJson, RecognisesEveryPreTokenizer) {
  const std::vector<uint8_t> bytes = read_fixture("pre_tokenizers.json");
  const nlohmann::json table = nlohmann::json::parse(bytes.begin(), bytes.end());
  ASSERT_EQ(table.size(), 17u);
  const auto parse = [](const nlohmann::json& json) {
    std::vector<const nlohmann::json*> parts;
    if (json["type"] == "Sequence") {
      for (const nlohmann::json& part : json["pretokenizers"]) parts.push_back(&part);
    } else {
      parts.push_back(&json);
    }
    return parse_hf_splits(parts);
  };
  for (size_t i = 0; i < table.size(); ++i) {
    ASSERT_EQ(table[i]["row"], i + 1);
    const auto row = static_cast<PreTokenizer>(i + 1);
    const auto found = parse(table[i]["pre_tokenizer"]);
    ASSERT_TRUE(found.ok()) << table[i]["name"] << ": " << found.status().message();
    EXPECT_EQ(found->row, row) << table[i]["name"];
    const auto made = make_hf_splits(row, false);
    ASSERT_TRUE(made.ok()) << made.status().message();
    const auto again = parse(*made);
    ASSERT_TRUE(again.ok()) << again.status().message();
    EXPECT_EQ(again->row, row) << table[i]["name"];
  }
}

// The text of a pattern that nobody here knows is in the message, which the file keeps.
TEST(TokenizerJson, SaysWhichPatternIsUnknown) {
  nlohmann::json table = nlohmann::json::parse(
      R"([{"type":"Split","pattern":{"Regex":"[aeiou]+|new\\p{L}"},"behavior":"Isolated","invert":false}])");
  const std::vector<const nlohmann::json*> parts = {&table[0]};
  const Status status = parse_hf_splits(parts).status();
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("[aeiou]+|new"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace nwc
