// A tokenizer record as tokenizer.json.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "trainer/data/hf_pre_tokenizer.h"
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
  if (token.type != TokenType::kNormal || token.options == TokenizerRecord::kDecodesOnly) return token.bytes;
  return sentencepiece ? to_visible_space(token.bytes) : to_byte_alphabet(token.bytes);
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json sequence(const char* key, Json parts) { return {{"type", "Sequence"}, {key, std::move(parts)}}; }

Json replace(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

Status add_pipeline(const TokenizerRecord& record, Json* json) {
  if (!is_sentencepiece(record)) {
    (*json)["normalizer"] = nullptr;
    if (!record.normalizer.empty()) (*json)["normalizer"] = {{"type", "NFC"}};
    NWC_ASSIGN_OR_RETURN((*json)["pre_tokenizer"], make_hf_splits(record.pre_tokenizer, record.add_prefix_space));
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
  if (record.drops_leading_space())
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  (*json)["decoder"] = sequence("decoders", std::move(decoders));
  return {};
}

Json post_processor(const TokenizerRecord& record) {
  if (!record.add_bos && record.after.empty()) {
    return is_sentencepiece(record) ? Json(nullptr) : byte_level(true, true);
  }
  Json single = Json::array(), pair = Json::array(), specials = Json::object();
  const auto add = [&](uint32_t id, int type, Json* list) {
    const std::string& text = record.tokens[id].bytes;
    list->push_back({{"SpecialToken", {{"id", text}, {"type_id", type}}}});
    specials[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
  };
  const auto add_text = [&](const char* name, int type, Json* list) {
    if (record.add_bos) add(record.bos_id, type, list);
    list->push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    for (const uint32_t id : record.after) add(id, type, list);
  };
  add_text("A", 0, &single);
  add_text("A", 0, &pair);
  add_text("B", 1, &pair);
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens", std::move(specials)}};
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

// What a GGUF file can say beyond Llama's tokenizers is written only as far as models need it.
Status check_simple(const TokenizerRecord& record) {
  const bool bpe = record.kind == TokenizerKind::kByteLevelBpe || is_sentencepiece(record);
  if (!bpe) return unsupported("a Unigram or WordPiece tokenizer is not written as tokenizer.json");
  const bool composes = record.normalizer.size() == 1 && record.normalizer[0].op == NormalizerOp::kNfc;
  if (!record.normalizer.empty() && (!composes || is_sentencepiece(record))) {
    return unsupported("the tokenizer's normalizer is not written as tokenizer.json");
  }
  if (is_sentencepiece(record) && record.pre_tokenizer != PreTokenizer::kNone) {
    return unsupported("the tokenizer's pre-tokenizer is not written as tokenizer.json");
  }
  if (!record.more_before.empty() || record.after.size() > 1) {
    return unsupported("the special tokens around a text are not written as tokenizer.json");
  }
  return {};
}

}  // namespace

Result<std::string> make_hf_tokenizer(const TokenizerRecord& record) {
  NWC_TRY(check_simple(record));
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
                     {"single_word", (token.options & TokenizerRecord::kSingleWord) != 0},
                     {"lstrip", (token.options & TokenizerRecord::kStripsLeft) != 0},
                     {"rstrip", (token.options & TokenizerRecord::kStripsRight) != 0},
                     {"normalized", (token.options & TokenizerRecord::kNormalized) != 0},
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
                {"fuse_unk", sentencepiece && !record.unfused_unknown},
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
