// A tokenizer record as tokenizer.json.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "trainer/data/hf_pipeline.h"
#include "trainer/data/hf_write.h"
#include "trainer/data/utf8.h"

namespace nwc {
namespace {

using Json = nlohmann::json;
using Token = TokenizerRecord::Token;

constexpr char kVisibleSpace[] = "\xe2\x96\x81";  // U+2581

bool is_sentencepiece(const TokenizerRecord& record) { return record.kind == TokenizerKind::kSentencePieceBpe; }

std::string token_text(const Token& token, bool sentencepiece) {
  if (token.type == TokenType::kByte && token.bytes.size() == 1) {
    return byte_token_text(static_cast<uint8_t>(token.bytes[0]));
  }
  if (token.type != TokenType::kNormal) return token.bytes;
  return sentencepiece ? to_visible_space(token.bytes) : to_byte_alphabet(token.bytes);
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json sequence(const char* key, Json parts) { return {{"type", "Sequence"}, {key, std::move(parts)}}; }

Result<Json> pre_tokenizer(const TokenizerRecord& record) {
  switch (record.pre_tokenizer) {
    case PreTokenizer::kGpt2: return byte_level(record.add_prefix_space, true);
    case PreTokenizer::kSmolLm2:
      return sequence("pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, byte_level(false, true)});
    case PreTokenizer::kLlama3:
      return sequence(
          "pretokenizers",
          {{{"type", "Split"}, {"pattern", {{"Regex", kLlama3Pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
           byte_level(false, false)});
    default: break;
  }
  return unsupported("the tokenizer's pre-tokenizer has no form in tokenizer.json");
}

Json replace(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

Status add_pipeline(const TokenizerRecord& record, Json* json) {
  if (!is_sentencepiece(record)) {
    (*json)["normalizer"] = nullptr;
    NWC_ASSIGN_OR_RETURN((*json)["pre_tokenizer"], pre_tokenizer(record));
    (*json)["decoder"] = byte_level(true, true);
    return {};
  }
  Json normalizers = Json::array(), decoders = Json::array();
  if (record.prefix_unless_space) {
    (*json)["normalizer"] = nullptr;
    (*json)["pre_tokenizer"] = {{"type", "Metaspace"},
                                {"replacement", kVisibleSpace},
                                {"prepend_scheme", record.prefix_first_only ? "first" : "always"},
                                {"split", false}};
  } else {
    if (record.prefix_first_only) return unsupported("the tokenizer's prefix space has no form in tokenizer.json");
    if (record.add_prefix_space) normalizers.push_back({{"type", "Prepend"}, {"prepend", kVisibleSpace}});
    normalizers.push_back(replace(" ", kVisibleSpace));
    (*json)["normalizer"] = sequence("normalizers", std::move(normalizers));
    (*json)["pre_tokenizer"] = nullptr;
  }
  decoders.push_back(replace(kVisibleSpace, " "));
  if (record.byte_fallback) decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (record.add_prefix_space) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  (*json)["decoder"] = sequence("decoders", std::move(decoders));
  return {};
}

Json post_processor(const TokenizerRecord& record) {
  if (!record.add_bos) return is_sentencepiece(record) ? Json(nullptr) : byte_level(true, true);
  const std::string& bos = record.tokens[record.bos_id].bytes;
  const auto text = [](const char* id, int type) { return Json{{"Sequence", {{"id", id}, {"type_id", type}}}}; };
  const auto special = [&](int type) { return Json{{"SpecialToken", {{"id", bos}, {"type_id", type}}}}; };
  return {{"type", "TemplateProcessing"},
          {"single", {special(0), text("A", 0)}},
          {"pair", {special(0), text("A", 0), special(1), text("B", 1)}},
          {"special_tokens", {{bos, {{"id", bos}, {"ids", {record.bos_id}}, {"tokens", {bos}}}}}}};
}

/// Scores choose as merges would that are ranked by the score of their result: every way to cut a token in two tokens
/// is one. (Equal scores of different tokens go by rank here, by place there; vocabularies do not have them.)
Json merges_from_scores(const TokenizerRecord& record) {
  std::unordered_map<std::string_view, uint32_t> ids;
  for (uint32_t i = 0; i < record.tokens.size(); ++i) {
    if (record.tokens[i].type == TokenType::kNormal) ids.emplace(record.tokens[i].bytes, i);
  }
  struct Cut {
    uint32_t token, left, right;
  };
  std::vector<Cut> cuts;
  for (const auto& [bytes, id] : ids) {
    for (size_t at = 1; at < bytes.size(); ++at) {
      const auto left = ids.find(bytes.substr(0, at)), right = ids.find(bytes.substr(at));
      if (left != ids.end() && right != ids.end()) cuts.push_back({id, left->second, right->second});
    }
  }
  std::sort(cuts.begin(), cuts.end(), [&](const Cut& a, const Cut& b) {
    return std::tuple(-record.tokens[a.token].score, a.token, a.left) <
           std::tuple(-record.tokens[b.token].score, b.token, b.left);
  });
  Json merges = Json::array();
  for (const Cut& cut : cuts) {
    merges.push_back({token_text(record.tokens[cut.left], true), token_text(record.tokens[cut.right], true)});
  }
  return merges;
}

Json merges_json(const TokenizerRecord& record) {
  if (is_sentencepiece(record) && record.merges.empty()) return merges_from_scores(record);
  const auto text = [&](uint32_t id) { return token_text(record.tokens[id], is_sentencepiece(record)); };
  Json merges = Json::array();
  for (const TokenizerRecord::Merge& merge : record.merges) merges.push_back({text(merge.left), text(merge.right)});
  return merges;
}

}  // namespace

Result<std::string> make_hf_tokenizer(const TokenizerRecord& record) {
  const bool sentencepiece = is_sentencepiece(record);
  Json added = Json::array(), vocabulary = Json::object();
  for (size_t id = 0; id < record.tokens.size(); ++id) {
    const Token& token = record.tokens[id];
    const std::string text = token_text(token, sentencepiece);
    if (text.empty()) continue;  // a gap in the ids
    if (!vocabulary.emplace(text, id).second) {
      return unsupported("two tokens are spelt \"" + text + "\", which tokenizer.json cannot say");
    }
    if (token.type == TokenType::kNormal || token.type == TokenType::kByte) continue;
    added.push_back({{"id", id},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", token.type != TokenType::kUserDefined}});
  }
  // With SentencePiece text can become the unknown token; byte-level vocabularies may name one that it never does.
  const bool has_unknown =
      record.unk_id != UINT32_MAX && (sentencepiece || record.tokens[record.unk_id].type == TokenType::kUnknown);
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", has_unknown ? Json(record.tokens[record.unk_id].bytes) : Json(nullptr)},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", sentencepiece},
                {"byte_fallback", record.byte_fallback},
                {"ignore_merges", record.ignore_merges},
                {"vocab", std::move(vocabulary)},
                {"merges", merges_json(record)}};
  Json json = {{"version", "1.0"},
               {"truncation", nullptr},
               {"padding", nullptr},
               {"added_tokens", std::move(added)},
               {"post_processor", post_processor(record)},
               {"model", std::move(model)}};
  NWC_TRY(add_pipeline(record, &json));
  try {
    return json.dump(1, ' ') + "\n";
  } catch (const Json::exception&) {
    return unsupported("a token is not valid UTF-8, which tokenizer.json cannot hold");
  }
}

}  // namespace nwc
