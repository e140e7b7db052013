// The TOKENIZER section: the fixtures were written by an independent writer; hostile bytes are rejected without harm.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "runtime/model/tokenizer.h"
#include "tests/model/tokenizer_fixtures.h"

namespace nwc {
namespace {

TokenizerRecord small_byte_level() {
  TokenizerRecord record;
  record.tokens = {{"a"},
                   {"b"},
                   {" "},
                   {"ab"},
                   {"<e>", TokenType::kControl},
                   {"", TokenType::kUnknown},
                   {"u", TokenType::kUserDefined}};
  record.merges = {{0, 1, 3}};
  record.bos_id = 4;
  record.add_bos = true;
  return record;
}

TokenizerRecord small_sentencepiece() {
  TokenizerRecord record;
  record.kind = TokenizerKind::kSentencePieceBpe;
  record.pre_tokenizer = PreTokenizer::kNone;
  record.add_prefix_space = true;
  record.unk_id = 0;
  record.tokens = {{"<unk>", TokenType::kUnknown, 0},
                   {" ", TokenType::kNormal, -2},
                   {"a", TokenType::kNormal, -3},
                   {" a", TokenType::kNormal, -1},
                   {"Z", TokenType::kByte, 0}};
  return record;
}

/// Everything that needs version 2, in three records.
TokenizerRecord byte_level_with_parts() {
  TokenizerRecord record = small_byte_level();
  record.pre_tokenizer = PreTokenizer::kQwen2;
  record.normalizer = {{NormalizerOp::kNfc}, {NormalizerOp::kReplace, "b", "aa"}, {NormalizerOp::kPrepend, "", " "}};
  record.tokens[4].options = TokenizerRecord::kStripsRight;
  record.tokens[6].options = TokenizerRecord::kSingleWord | TokenizerRecord::kNormalized;
  record.more_before = {6, 4};
  record.after = {4};
  record.drop_leading_space = true;
  return record;
}

TokenizerRecord small_unigram() {
  TokenizerRecord record = small_sentencepiece();
  record.kind = TokenizerKind::kUnigram;
  record.pre_tokenizer = PreTokenizer::kSpaces;
  record.keep_leading_space = true;
  for (auto& token : record.tokens) token.score = token.score * 1.1;
  record.normalizer = {{NormalizerOp::kCharsmap}, {NormalizerOp::kCollapseSpaces, "", " "}};
  record.charsmap = {4, 0, 0, 0, 0, 0, 0, 0, 'x', 0};
  return record;
}

TokenizerRecord small_wordpiece() {
  TokenizerRecord record;
  record.kind = TokenizerKind::kWordPiece;
  record.pre_tokenizer = PreTokenizer::kBert;
  record.tokens = {{"[UNK]", TokenType::kUnknown}, {" a"}, {"b"}, {" b"}};
  record.unk_id = 0;
  record.max_word_chars = 20;
  record.normalizer = {{NormalizerOp::kLowercase}};
  return record;
}

/// What a caller does with a record that was accepted.
void use(TokenizerRecord record) {
  auto tokenizer = Tokenizer::create(std::move(record));
  ASSERT_TRUE(tokenizer.ok());
  for (const char* text : {"ab u<e>aab  b", "\xc3(\xff", "12 \n\n'll"}) {
    auto ids = (*tokenizer)->encode(text, {.add_special = true, .parse_special = true});
    if (ids.ok()) (*tokenizer)->decode(*ids);
  }
}

TEST(TokenizerRecord, FixturesRoundTrip) {
  for (const char* name : kTokenizerFixtures) {
    const std::vector<uint8_t> bytes = read_fixture(std::string(name) + ".tokenizer");
    ASSERT_FALSE(bytes.empty()) << name;
    const auto record = parse_tokenizer_record(bytes, 0);
    ASSERT_TRUE(record.ok()) << name << ": " << record.status().message();
    EXPECT_EQ(serialize(*record), bytes) << name;
  }
}

TEST(TokenizerRecord, RejectsEveryPrefix) {
  for (const char* name : kTokenizerFixtures) {
    const std::vector<uint8_t> bytes = read_fixture(std::string(name) + ".tokenizer");
    for (size_t n = 0; n < bytes.size(); n += n < 1024 ? 1 : 61) {
      // A copy of its own, so that a sanitizer sees a read beyond the end.
      const std::vector<uint8_t> prefix(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n));
      ASSERT_FALSE(parse_tokenizer_record(prefix, 0).ok()) << name << " " << n;
    }
  }
}

TEST(TokenizerRecord, NoByteIsIgnored) {
  for (const TokenizerRecord& record :
       {small_byte_level(), small_sentencepiece(), byte_level_with_parts(), small_unigram(), small_wordpiece()}) {
    ASSERT_TRUE(validate(record).ok()) << validate(record).message();
    const std::vector<uint8_t> bytes = serialize(record);
    for (size_t i = 0; i < bytes.size(); ++i) {
      for (uint32_t flip = 1; flip < 256; ++flip) {
        std::vector<uint8_t> damaged = bytes;
        damaged[i] = static_cast<uint8_t>(damaged[i] ^ flip);
        auto parsed = parse_tokenizer_record(damaged, 0);
        if (!parsed.ok()) continue;
        EXPECT_EQ(serialize(*parsed), damaged) << "byte " << i;
        use(std::move(parsed).value());
      }
    }
    std::vector<uint8_t> longer = bytes;
    longer.push_back(0);
    EXPECT_EQ(parse_tokenizer_record(longer, 0).status().code(), StatusCode::kCorrupt);
  }
}

// What an older program cannot read has version 2, and nothing else has.
TEST(TokenizerRecord, VersionIsTheLowestThatSaysEverything) {
  const auto version = [](const TokenizerRecord& record) { return load_le<uint32_t>(serialize(record).data()); };
  EXPECT_EQ(version(small_byte_level()), 1u);
  EXPECT_EQ(version(small_sentencepiece()), 1u);
  EXPECT_EQ(version(byte_level_with_parts()), 2u);
  EXPECT_EQ(version(small_unigram()), 2u);
  EXPECT_EQ(version(small_wordpiece()), 2u);
  for (const PreTokenizer pre : {PreTokenizer::kLlama3, PreTokenizer::kQwen2}) {
    TokenizerRecord record = small_byte_level();
    record.pre_tokenizer = pre;
    EXPECT_EQ(version(record), pre == PreTokenizer::kLlama3 ? 1u : 2u);
    std::vector<uint8_t> bytes = serialize(record);
    bytes[0] = 1;
    EXPECT_EQ(parse_tokenizer_record(bytes, 0).ok(), pre == PreTokenizer::kLlama3);
  }
}

// A file of a newer program: no session, and a message that says why.
TEST(TokenizerRecord, NewerThingsAreUnsupported) {
  const auto expect_unsupported = [](const std::vector<uint8_t>& bytes, const std::string& part) {
    const Status status = parse_tokenizer_record(bytes, 0).status();
    EXPECT_EQ(status.code(), StatusCode::kUnsupported) << status.message();
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  };
  std::vector<uint8_t> bytes = serialize(small_wordpiece());
  bytes[0] = 3;
  expect_unsupported(bytes, "record version 3");
  bytes = serialize(small_wordpiece());
  bytes[4] = 5;
  expect_unsupported(bytes, "kind");
  bytes = serialize(small_wordpiece());
  bytes[5] = 21;
  expect_unsupported(bytes, "pre-tokenizer");
  bytes = serialize(small_wordpiece());
  bytes[7] = 2;
  expect_unsupported(bytes, "flags");
  // The parts stand at the end: the normalizer (8 bytes of head, 4 + 6), then WordPiece's (8 + 4).
  bytes = serialize(small_wordpiece());
  bytes[bytes.size() - 12] = 6;
  expect_unsupported(bytes, "part 6");
  bytes = serialize(small_wordpiece());
  bytes[bytes.size() - 8] = 5;
  bytes.push_back(0);
  expect_unsupported(bytes, "more bytes");
  bytes = serialize(small_wordpiece());
  bytes[bytes.size() - 18] = 16;
  expect_unsupported(bytes, "step 0");
}

TEST(TokenizerRecord, SurvivesFlipsInAWholeTokenizer) {
  for (const char* name : {"llama3", "sentencepiece"}) {
    const std::vector<uint8_t> bytes = read_fixture(std::string(name) + ".tokenizer");
    for (size_t i = 0; i < bytes.size(); i += 5) {
      std::vector<uint8_t> damaged = bytes;
      damaged[i] = static_cast<uint8_t>(damaged[i] ^ (1u << (i % 8)));
      auto parsed = parse_tokenizer_record(damaged, 0);
      if (parsed.ok() && i % 97 < 5) use(std::move(parsed).value());
    }
  }
}

TEST(TokenizerRecord, CountBombsAllocateNothing) {
  std::vector<uint8_t> bytes = serialize(small_byte_level());
  for (uint32_t count : {1u << 22, (1u << 22) + 1, UINT32_MAX}) {
    for (size_t offset : {16u, 20u}) {
      std::vector<uint8_t> bomb = bytes;
      std::memcpy(bomb.data() + offset, &count, sizeof count);
      const Status status = parse_tokenizer_record(bomb, 0).status();
      EXPECT_TRUE(status.code() == StatusCode::kTruncated || status.code() == StatusCode::kLimit) << status.message();
    }
  }
}

TEST(TokenizerRecord, ValidateSaysWhatIsWrong) {
  struct Case {
    const char* message;
    std::function<void(TokenizerRecord&)> damage;
  };
  const Case cases[] = {
      {"no tokens", [](TokenizerRecord& r) { r.tokens.clear(); }},
      {"kind", [](TokenizerRecord& r) { r.kind = static_cast<TokenizerKind>(5); }},
      {"pre-tokenizer", [](TokenizerRecord& r) { r.pre_tokenizer = static_cast<PreTokenizer>(21); }},
      {"pre-tokenizer", [](TokenizerRecord& r) { r.pre_tokenizer = PreTokenizer::kBert; }},
      {"unfused", [](TokenizerRecord& r) { r.unfused_unknown = true; }},
      {"leading space", [](TokenizerRecord& r) { r.keep_leading_space = r.drop_leading_space = true; }},
      {"BOS", [](TokenizerRecord& r) { r.add_bos = false, r.more_before = {1}; }},
      {"special token 7", [](TokenizerRecord& r) { r.after = {7}; }},
      {"special tokens", [](TokenizerRecord& r) { r.after.assign(9, 1); }},
      {"token 1", [](TokenizerRecord& r) { r.tokens[1].options = TokenizerRecord::kSingleWord; }},
      {"options 64", [](TokenizerRecord& r) { r.tokens[1].options = 64; }},
      {"max_word_chars", [](TokenizerRecord& r) { r.max_word_chars = 7; }},
      {"step 0",
       [](TokenizerRecord& r) {
         r.normalizer = {{NormalizerOp::kReplace, "", "x"}};
       }},
      {"step 1",
       [](TokenizerRecord& r) {
         r.normalizer = {{NormalizerOp::kNfc}, {NormalizerOp::kNfc, "a"}};
       }},
      {"step 0", [](TokenizerRecord& r) { r.normalizer = {{static_cast<NormalizerOp>(16)}}; }},
      {"steps", [](TokenizerRecord& r) { r.normalizer.assign(33, {NormalizerOp::kNfc}); }},
      {"charsmap", [](TokenizerRecord& r) { r.normalizer = {{NormalizerOp::kCharsmap}}; }},
      {"charsmap", [](TokenizerRecord& r) { r.charsmap = {1}; }},
      {"pre-tokenizer", [](TokenizerRecord& r) { r.kind = TokenizerKind::kSentencePieceBpe; }},
      {"byte_fallback", [](TokenizerRecord& r) { r.byte_fallback = true; }},
      {"add_prefix_space",
       [](TokenizerRecord& r) { r.add_prefix_space = true, r.pre_tokenizer = PreTokenizer::kLlama3; }},
      {"prefix_first_only", [](TokenizerRecord& r) { r.prefix_first_only = true; }},
      {"prefix_unless_space", [](TokenizerRecord& r) { r.prefix_unless_space = r.add_prefix_space = true; }},
      {"bos_id", [](TokenizerRecord& r) { r.bos_id = 7; }},
      {"add_bos", [](TokenizerRecord& r) { r.bos_id = UINT32_MAX; }},
      {"unk_id", [](TokenizerRecord& r) { r.unk_id = 7; }},
      {"token 2", [](TokenizerRecord& r) { r.tokens[2].bytes.assign(1025, 'x'); }},
      {"token 2", [](TokenizerRecord& r) { r.tokens[2].type = static_cast<TokenType>(5); }},
      {"token 3", [](TokenizerRecord& r) { r.tokens[3].type = TokenType::kByte; }},
      {"token 1", [](TokenizerRecord& r) { r.tokens[1].score = 1e38f * 10; }},
      {"merge 0", [](TokenizerRecord& r) { r.merges[0].left = 7; }},
      {"merge 0", [](TokenizerRecord& r) { r.merges[0].result = UINT32_MAX; }},
      {"merge 0",
       [](TokenizerRecord& r) {
         r.merges[0] = {1, 0, 3};
       }},
      {"merge 0",
       [](TokenizerRecord& r) {
         r.merges[0] = {0, 5, 0};
       }},
      {"merges", [](TokenizerRecord& r) { r.merges.resize((1u << 23) + 1); }},
  };
  for (const Case& c : cases) {
    TokenizerRecord record = small_byte_level();
    ASSERT_TRUE(validate(record).ok());
    c.damage(record);
    const Status status = validate(record);
    EXPECT_FALSE(status.ok()) << c.message;
    EXPECT_NE(status.message().find(c.message), std::string::npos) << status.message();
  }
  TokenizerRecord record = small_sentencepiece();
  record.byte_fallback = true;
  EXPECT_NE(validate(record).message().find("byte 0 has no token"), std::string::npos);
}

}  // namespace
}  // namespace nwc
