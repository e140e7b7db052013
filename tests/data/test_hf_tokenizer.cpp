#include <gtest/gtest.h>

#include "tests/data/temp_dir.h"
#include "trainer/data/hf_tokenizer.h"
#include "trainer/data/hf_tokenizer_config.h"

namespace nwc {
namespace {

Result<TokenizerRecord> parse(const std::string& json, std::optional<uint32_t> bos = {}, SourceNotes* notes = nullptr) {
  const std::vector<uint8_t> bytes(json.begin(), json.end());
  SourceNotes ignored;
  return parse_hf_tokenizer(bytes, bos, notes != nullptr ? notes : &ignored);
}

const std::string kByteLevel = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
const std::string kByteLevelNoRegex = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
const std::string kModel = R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"\u0120":3,"\u0120ab":4},)"
                           R"("merges":["a b",["\u0120","ab"]]})";

std::string sequence(const std::string& list_key, const std::string& items) {
  return R"({"type":"Sequence",")" + list_key + "\":[" + items + "]}";
}

std::string tokenizer(const std::string& pre, const std::string& model = kModel, const std::string& more = "") {
  return "{\"pre_tokenizer\":" + pre + ",\"model\":" + model + more + "}";
}

void expect_error(const std::string& json, StatusCode code, const std::string& part) {
  const Result<TokenizerRecord> record = parse(json);
  ASSERT_FALSE(record.ok()) << part;
  EXPECT_EQ(record.status().code(), code) << record.status().message();
  EXPECT_EQ(record.status().message().rfind("tokenizer.json", 0), 0u) << record.status().message();
  EXPECT_NE(record.status().message().find(part), std::string::npos) << record.status().message();
}

TEST(HfTokenizer, ReadsTheTokenizerOfTheIncludedModel) {
  const Result<TokenizerRecord> record =
      parse(test::load_file(NWC_SOURCE_DIR "/models/gutenlm-2.6m/tokenizer.json"), 0);
  ASSERT_TRUE(record.ok()) << record.status().message();
  EXPECT_EQ(record->kind, TokenizerKind::kByteLevelBpe);
  EXPECT_EQ(record->pre_tokenizer, PreTokenizer::kGpt2);
  ASSERT_EQ(record->tokens.size(), 1024u);
  ASSERT_EQ(record->merges.size(), 767u);
  EXPECT_EQ(record->tokens[0].bytes, "<|endoftext|>");
  EXPECT_EQ(record->tokens[0].type, TokenType::kControl);
  EXPECT_EQ(record->tokens[33].bytes, " ");
  EXPECT_EQ(record->tokens[record->merges[0].result].bytes, " t");
  EXPECT_EQ(record->bos_id, 0u);
  EXPECT_FALSE(record->add_bos);
}

TEST(HfTokenizer, ReadsMergesInBothSpellings) {
  const Result<TokenizerRecord> record = parse(tokenizer(kByteLevel));
  ASSERT_TRUE(record.ok()) << record.status().message();
  ASSERT_EQ(record->merges.size(), 2u);
  EXPECT_EQ(record->merges[0].result, 2u);
  EXPECT_EQ(record->merges[1].left, 3u);
  EXPECT_EQ(record->merges[1].right, 2u);
  EXPECT_EQ(record->tokens[4].bytes, " ab");
  EXPECT_EQ(record->bos_id, UINT32_MAX);
}

TEST(HfTokenizer, RecognisesPreTokenizers) {
  const auto pre = [](const std::string& items) {
    const Result<TokenizerRecord> record = parse(tokenizer(sequence("pretokenizers", items)));
    EXPECT_TRUE(record.ok()) << record.status().message();
    return record.ok() ? record->pre_tokenizer : PreTokenizer::kNone;
  };
  EXPECT_EQ(pre(kByteLevel), PreTokenizer::kGpt2);
  EXPECT_EQ(pre(R"({"type":"Digits","individual_digits":true},)" + kByteLevel), PreTokenizer::kSmolLm2);
  const std::string llama3 =
      R"({"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|)"
      R"( ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},)";
  EXPECT_EQ(pre(llama3 + kByteLevelNoRegex), PreTokenizer::kLlama3);

  using enum StatusCode;
  expect_error(tokenizer(sequence("pretokenizers", llama3 + kByteLevel)), kUnsupported, "these parts in this order");
  expect_error(tokenizer(kByteLevelNoRegex), kUnsupported, "without a pattern");
  expect_error(tokenizer(sequence("pretokenizers", R"({"type":"Digits","individual_digits":false},)" + kByteLevel)),
               kUnsupported, "Digits");
  expect_error(tokenizer(sequence("pretokenizers", R"({"type":"Whitespace"},)" + kByteLevel)), kUnsupported,
               "Whitespace");
  expect_error(tokenizer(R"({"type":"Whitespace"})"), kUnsupported, "Whitespace");
  expect_error(tokenizer("null"), kUnsupported, "U+2581");
  expect_error(tokenizer(kByteLevel, kModel, R"(,"normalizer":{"type":"Nmt"})"), kUnsupported, "Nmt");
}

TEST(HfTokenizer, ReadsAddedTokensAndPostProcessor) {
  const std::string more =
      R"(,"added_tokens":[{"id":7,"content":"<s>","special":true},{"id":6,"content":"<x>","special":false},)"
      R"({"id":2,"content":"ab","special":true}],"post_processor":)" +
      sequence("processors",
               kByteLevel + R"(,{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
                            R"({"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[7]}}})");
  const Result<TokenizerRecord> record = parse(tokenizer(kByteLevel, kModel, more));
  ASSERT_TRUE(record.ok()) << record.status().message();
  ASSERT_EQ(record->tokens.size(), 8u);
  EXPECT_EQ(record->tokens[2].type, TokenType::kControl);
  EXPECT_EQ(record->tokens[5].type, TokenType::kUnknown) << "a gap";
  EXPECT_EQ(record->tokens[6].type, TokenType::kUserDefined);
  EXPECT_EQ(record->tokens[7].bytes, "<s>");
  EXPECT_TRUE(record->add_bos);
  EXPECT_EQ(record->bos_id, 7u);

  using enum StatusCode;
  expect_error(tokenizer(kByteLevel, kModel, R"(,"added_tokens":[{"id":0,"content":"<s>"}])"), kCorrupt, "contradicts");
  expect_error(tokenizer(kByteLevel, kModel, R"(,"added_tokens":[{"id":9,"content":"a"}])"), kCorrupt, "contradicts");
  expect_error(tokenizer(kByteLevel, kModel, R"(,"added_tokens":[{"id":99999999,"content":"x"}])"), kLimit, "id");
  expect_error(tokenizer(kByteLevel, kModel, R"(,"post_processor":{"type":"BertProcessing"})"), kCorrupt, "cls");
  expect_error(tokenizer(kByteLevel, kModel, R"(,"post_processor":{"type":"Future"})"), kUnsupported, "Future");
  const Result<TokenizerRecord> around =
      parse(tokenizer(kByteLevel, kModel,
                      R"(,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"b"}},)"
                      R"({"SpecialToken":{"id":"a"}},{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"a"}}],)"
                      R"("special_tokens":{"a":{"ids":[0]},"b":{"ids":[1]}}})"));
  ASSERT_TRUE(around.ok()) << around.status().message();
  EXPECT_TRUE(around->add_bos);
  EXPECT_EQ(around->bos_id, 1u);
  EXPECT_EQ(around->more_before, std::vector<uint32_t>{0});
  EXPECT_EQ(around->after, std::vector<uint32_t>{0});
}

// As Llama 2 has it: 256 byte tokens, spaces made visible, ranked merges.
std::string sentencepiece_model(const std::string& merges) {
  std::string vocab = R"({"<unk>":0,"<s>":1,"</s>":2)";
  for (int byte = 0; byte < 256; ++byte) {
    char text[24];
    snprintf(text, sizeof text, ",\"<0x%02X>\":%d", byte, byte + 3);
    vocab += text;
  }
  vocab += R"(,"\u2581":259,"a":260,"\u2581a":261})";
  return R"({"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":)" + vocab +
         R"(,"merges":)" + merges + "}";
}

TEST(HfTokenizer, ReadsSentencePieceModels) {
  const std::string normalizer =
      R"(,"normalizer":)" + sequence("normalizers",
                                     R"({"type":"Prepend","prepend":"\u2581"},)"
                                     R"({"type":"Replace","pattern":{"String":" "},"content":"\u2581"})");
  const std::string metaspace = R"({"type":"Metaspace","replacement":"\u2581","prepend_scheme":"first","split":false})";
  const std::string added = R"(,"added_tokens":[{"id":1,"content":"<s>","special":true}])";
  for (const std::string& json : {tokenizer("null", sentencepiece_model(R"(["\u2581 a"])"), normalizer + added),
                                  tokenizer(metaspace, sentencepiece_model(R"([["\u2581","a"]])"), added)}) {
    const Result<TokenizerRecord> record = parse(json, 1);
    ASSERT_TRUE(record.ok()) << record.status().message();
    EXPECT_EQ(record->kind, TokenizerKind::kSentencePieceBpe);
    EXPECT_EQ(record->pre_tokenizer, PreTokenizer::kNone);
    EXPECT_TRUE(record->add_prefix_space && record->byte_fallback);
    EXPECT_EQ(record->unk_id, 0u);
    EXPECT_EQ(record->tokens[0].type, TokenType::kUnknown);
    EXPECT_EQ(record->tokens[1].type, TokenType::kControl);
    EXPECT_EQ(record->tokens[13].type, TokenType::kByte);
    EXPECT_EQ(record->tokens[13].bytes, "\n");
    EXPECT_EQ(record->tokens[261].bytes, " a");
    ASSERT_EQ(record->merges.size(), 1u);
    EXPECT_EQ(record->merges[0].result, 261u);
    EXPECT_EQ(record->bos_id, 1u);
  }
  using enum StatusCode;
  expect_error(tokenizer("null", sentencepiece_model("[]"), normalizer), kUnsupported, "without merges");
  const auto with_metaspace = [&](const std::string& options, const std::string& merges = R"(["\u2581 a"])") {
    return tokenizer(R"({"type":"Metaspace","replacement":"\u2581")" + options + "}", sentencepiece_model(merges));
  };
  expect_error(with_metaspace(R"(,"prepend_scheme":"last")"), kUnsupported, "prepend_scheme \"last\"");
  expect_error(with_metaspace(R"(,"split":false,"odd":1)"), kUnsupported, "\"odd\": 1");
  expect_error(with_metaspace(R"(,"prepend_scheme":"first","add_prefix_space":false)"), kCorrupt, "contradicts");
  const auto scheme = [&](const std::string& options) {
    const Result<TokenizerRecord> record = parse(with_metaspace(options));
    EXPECT_TRUE(record.ok()) << record.status().message();
    return record.ok() ? 4 * record->add_prefix_space + 2 * record->prefix_first_only + record->prefix_unless_space
                       : -1;
  };
  EXPECT_EQ(scheme(R"(,"prepend_scheme":"first")"), 7);
  EXPECT_EQ(scheme(R"(,"prepend_scheme":"always","add_prefix_space":true)"), 5);
  EXPECT_EQ(scheme(R"(,"prepend_scheme":"never")"), 0);
  EXPECT_EQ(scheme(""), 5);
  EXPECT_EQ(scheme(R"(,"add_prefix_space":false)"), 0);
  // Without merges across spaces it makes no difference whether the text is split at spaces; with them it does.
  std::string across = with_metaspace("", R"(["\u2581 a",["a","\u2581a"]])");
  across.replace(across.find("\"a\":260"), 7, "\"a\":260,\"a\\u2581a\":262");
  EXPECT_EQ(parse(across)->pre_tokenizer, PreTokenizer::kSpaces);
  EXPECT_EQ(parse(with_metaspace(""))->pre_tokenizer, PreTokenizer::kNone);
  expect_error(
      tokenizer(R"({"type":"Metaspace","replacement":"\u2581"})", sentencepiece_model(R"(["\u2581 a"])"), normalizer),
      kUnsupported, "Metaspace");
}

// An option that nobody has heard of, or that changes tokens, leaves the tokenizer out; the message names it.
TEST(HfTokenizer, RefusesOptionsThatChangeTokens) {
  const auto refuse = [](const std::string& json, const std::string& part) {
    expect_error(json, StatusCode::kUnsupported, part);
  };
  ASSERT_TRUE(parse(tokenizer(kByteLevel)).ok());
  refuse(tokenizer(kByteLevel, kModel, R"(,"future":{"a":1})"), "\"future\"");
  std::string model = kModel;
  model.insert(1, R"("odd_option":2,)");
  refuse(tokenizer(kByteLevel, model), "odd_option");
  refuse(tokenizer(R"({"type":"ByteLevel","add_prefix_space":false,"odd":true})"), "\"odd\"");
  refuse(tokenizer(kByteLevel, kModel, R"(,"added_tokens":[{"id":7,"content":"<x>","odd":true}])"),
         "added token \"<x>\": the option \"odd");
  for (const char* type : {"Nmt", "ByteLevel", "Future"}) {
    refuse(tokenizer(kByteLevel, kModel, R"(,"normalizer":{"type":")" + std::string(type) + "\"}"), type);
  }
  refuse(tokenizer(kByteLevel, kModel, R"(,"normalizer":{"type":"NFC","odd":1})"), "\"odd\"");
  refuse(tokenizer(kByteLevel, kModel, R"(,"normalizer":{"type":"Replace","pattern":{"Regex":"a+"},"content":"b"})"),
         "Replace");
  const std::string split = R"({"type":"Split","pattern":{"Regex":"\\d+"},"behavior":"Isolated","invert":false},)";
  refuse(tokenizer(sequence("pretokenizers", split + kByteLevelNoRegex)), "regular expression");
  refuse(tokenizer(sequence("pretokenizers", R"({"type":"Sequence"},)" + kByteLevel)), "Sequence");
  refuse(tokenizer(kByteLevel, kModel, R"(,"decoder":{"type":"WordPiece"})"), "WordPiece");
  refuse(tokenizer(kByteLevel, kModel,
                   R"(,"post_processor":{"type":"TemplateProcessing","single":[],"special_tokens":{}})"),
         "without the text");

  SourceNotes notes;
  const std::string decoder = R"(,"decoder":{"type":"ByteLevel"})";
  ASSERT_TRUE(parse(tokenizer(kByteLevel, kModel, decoder), {}, &notes).ok());
  EXPECT_TRUE(notes.empty());
  ASSERT_TRUE(
      parse(tokenizer(kByteLevel, kModel, decoder + R"(,"truncation":{"max_length":4},"padding":null)"), {}, &notes)
          .ok());
  EXPECT_NE(join_notes(notes, NoteKind::kRepaired).find("truncation"), std::string::npos);
}

TEST(HfTokenizer, LooksForAddedTokensBehindANormalizer) {
  const std::string normalizer =
      R"(,"normalizer":)" + sequence("normalizers",
                                     R"({"type":"Prepend","prepend":"\u2581"},)"
                                     R"({"type":"Replace","pattern":{"String":" "},"content":"\u2581"})");
  const auto with_added = [&](const std::string& special) {
    return tokenizer(
        "null", sentencepiece_model(R"(["\u2581 a"])"),
        normalizer + R"(,"added_tokens":[{"id":1,"content":"<s>","normalized":true,"special":)" + special + "}]");
  };
  const Result<TokenizerRecord> seen = parse(with_added("false"));
  ASSERT_TRUE(seen.ok()) << seen.status().message();
  EXPECT_EQ(seen->tokens[1].options, TokenizerRecord::kNormalized);
  EXPECT_FALSE(seen->add_prefix_space) << "the normalizer's steps put it in front, where the token can be part of it";
  EXPECT_TRUE(seen->drop_leading_space);
  SourceNotes notes;
  EXPECT_TRUE(parse(with_added("true"), {}, &notes).ok());
  EXPECT_NE(join_notes(notes, NoteKind::kRepaired).find("<s>"), std::string::npos);
  std::string unfused = sentencepiece_model(R"(["\u2581 a"])");
  unfused.replace(unfused.find(R"("fuse_unk":true,"byte_fallback":true)"), 36, R"("byte_fallback":false)");
  EXPECT_TRUE(parse(tokenizer("null", unfused, normalizer))->unfused_unknown);
}

TEST(HfTokenizer, RejectsDamage) {
  using enum StatusCode;
  expect_error("", kCorrupt, "JSON");
  expect_error("{", kCorrupt, "JSON");
  expect_error("7", kCorrupt, "no model");
  expect_error("{}", kCorrupt, "no model");
  const auto model = [](const std::string& fields) { return tokenizer(kByteLevel, "{" + fields + "}"); };
  expect_error(model(R"("type":"WordLevel")"), kUnsupported, "WordLevel");
  expect_error(model(R"("dropout":0.1)"), kUnsupported, "dropout");
  expect_error(model(R"("end_of_word_suffix":"</w>")"), kUnsupported, "end_of_word_suffix");
  expect_error(model(R"("vocab":[])"), kCorrupt, "vocab");
  expect_error(model(R"("vocab":{"a":-1},"merges":[])"), kCorrupt, "no id");
  expect_error(model(R"("vocab":{"a":0,"b":0},"merges":[])"), kCorrupt, "contradicts");
  expect_error(model(R"("vocab":{"a":0,"a":1},"merges":[])"), kCorrupt, "twice");
  EXPECT_EQ(parse(model(R"("vocab":{"a b":0},"merges":[])"))->tokens[0].options, TokenizerRecord::kDecodesOnly);
  const auto other_model = [](const std::string& pre, const std::string& fields) {
    return tokenizer("{\"type\":\"" + pre + "\",\"replacement\":\"\\u2581\"}", "{" + fields + "}");
  };
  expect_error(other_model("Metaspace", R"("type":"Unigram","unk_id":0,"vocab":{"a":0})"), kCorrupt, "list");
  expect_error(other_model("Metaspace", R"("type":"Unigram","unk_id":0,"vocab":[["a"]])"), kCorrupt, "entry 0");
  expect_error(other_model("Metaspace", R"("type":"Unigram","unk_id":7,"vocab":[["a",0]])"), kCorrupt, "unk_id");
  expect_error(other_model("Metaspace", R"("type":"Unigram","vocab":[["a",0]])"), kCorrupt, "unk_id");
  expect_error(model(R"("vocab":{"a":0})"), kCorrupt, "merges");
  expect_error(model(R"("vocab":{"a":0},"merges":[1])"), kCorrupt, "merge 0");
  expect_error(model(R"("vocab":{"a":0},"merges":["a a"])"), kCorrupt, "\"aa\" is not in the vocabulary");
  expect_error(model(R"("vocab":{"a":0},"merges":[],"unk_token":"u")"), kCorrupt, "unk_token");
  expect_error(model(R"("vocab":{"a":0},"merges":[],"byte_fallback":true)"), kUnsupported, "byte_fallback");
}

TEST(HfTokenizer, DamagedFilesNeverDoMoreThanFail) {
  const std::string good =
      tokenizer(kByteLevel, kModel, R"(,"added_tokens":[{"id":5,"content":"<s>","special":true}])");
  ASSERT_TRUE(parse(good).ok());
  for (size_t i = 0; i < good.size(); ++i) {
    EXPECT_FALSE(parse(good.substr(0, i)).ok()) << i;
    for (const int flip : {0x01, 0x02, 0x40, 0x80}) {
      std::string damaged = good;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      (void)parse(damaged).ok();
    }
  }
}

// What tokenizer_config.json says of BOS and EOS counts, and what cannot be followed is said.
TEST(HfTokenizerConfig, BosAndEosAreAsConfigured) {
  TokenizerRecord plain;
  plain.tokens = {{"a"}, {"<s>", TokenType::kControl}, {"</s>", TokenType::kControl}, {"[CLS]", TokenType::kControl}};
  TokenizerRecord both = plain;
  both.bos_id = 1;
  both.add_bos = true;
  both.after = {2};
  SourceNotes notes;
  const auto apply = [&](const std::string& json, TokenizerRecord record) {
    notes.clear();
    apply_tokenizer_config({reinterpret_cast<const uint8_t*>(json.data()), json.size()}, &record, &notes);
    return record;
  };
  const std::string named = R"("bos_token":"<s>","eos_token":{"content":"</s>"})";
  EXPECT_EQ(serialize(apply("{" + named + R"(,"add_bos_token":true,"add_eos_token":true})", plain)), serialize(both));
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(notes[0].text.find("\"add_bos_token\" is true"), std::string::npos) << notes[0].text;
  const TokenizerRecord none = apply("{" + named + R"(,"add_bos_token":false,"add_eos_token":false})", both);
  EXPECT_FALSE(none.add_bos);
  EXPECT_TRUE(none.after.empty());
  EXPECT_EQ(notes.size(), 2u);

  for (const std::string& same : {std::string("{}"), "{" + named + "}", std::string(R"({"add_bos_token":null})")}) {
    EXPECT_EQ(serialize(apply(same, both)), serialize(both));
    EXPECT_EQ(serialize(apply(same, plain)), serialize(plain));
    EXPECT_TRUE(notes.empty());
  }
  // Another token in front, or more than one, is not BOS.
  TokenizerRecord cls = both;
  cls.bos_id = 3;
  EXPECT_EQ(serialize(apply("{" + named + R"(,"add_bos_token":false})", cls)), serialize(cls));
  cls = both;
  cls.more_before = {3};
  EXPECT_EQ(serialize(apply("{" + named + R"(,"add_bos_token":false})", cls)), serialize(cls));

  for (const char* odd :
       {R"({"add_bos_token":1})", R"({"add_bos_token":true})", R"({"add_eos_token":true,"eos_token":"?"})",
        R"({"add_bos_token":true,"bos_token":"a"})", "[", "3"}) {
    EXPECT_EQ(serialize(apply(odd, plain)), serialize(plain)) << odd;
    if (odd[0] != '3') {
      EXPECT_EQ(notes.size(), 1u) << odd;
    }
  }
}

}  // namespace
}  // namespace nwc
