#include "trainer/data/hf_tokenizer.h"

#include <nlohmann/json.hpp>

#include "trainer/data/bpe_merges.h"
#include "trainer/data/hf_pipeline.h"
#include "trainer/data/json_checked.h"
#include "trainer/data/utf8.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxTokens = 1u << 20;

// The vocabulary while it is put together: tokens as in the file, by id.
struct Vocabulary {
  std::vector<std::string> text;
  std::vector<TokenType> type;
  std::vector<double> score;
  std::vector<uint8_t> options;
  std::vector<bool> present;
  TokenIds ids;

  Status add(const std::string& token, const Json& id_value, TokenType token_type) {
    const std::optional<uint64_t> id = as_u64(id_value);
    if (!id) return corrupt("token \"" + token + "\" has no id");
    if (*id >= kMaxTokens) return limit_error("token \"" + token + "\" has an id above 1048575");
    const auto index = static_cast<size_t>(*id);
    if (index >= text.size()) {
      text.resize(index + 1);
      type.resize(index + 1, TokenType::kUnknown);
      score.resize(index + 1, 0);
      options.resize(index + 1, 0);
      present.resize(index + 1, false);
    }
    const auto [it, inserted] = ids.emplace(token, static_cast<uint32_t>(*id));
    if (it->second != *id || (present[index] && text[index] != token)) {
      return corrupt("token \"" + token + "\" with id " + std::to_string(*id) + " contradicts another entry");
    }
    text[index] = token;
    type[index] = token_type;
    present[index] = true;
    return {};
  }
};

Status add_vocabulary(const Json& model, Vocabulary* vocabulary) {
  const Json* vocab = find_field(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return corrupt("model.vocab must be an object");
  for (const auto& [token, id] : vocab->items()) NWC_TRY(vocabulary->add(token, id, TokenType::kNormal));
  return {};
}

// Unigram's: pairs of token and score, in order of their ids.
Status add_scored_vocabulary(const Json& model, Vocabulary* vocabulary) {
  const Json* vocab = find_field(model, "vocab");
  if (vocab == nullptr || !vocab->is_array()) return corrupt("model.vocab must be a list");
  for (size_t id = 0; id < vocab->size(); ++id) {
    const Json& pair = (*vocab)[id];
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_number()) {
      return corrupt("model.vocab: entry " + std::to_string(id) + " must be a token and its score");
    }
    NWC_TRY(vocabulary->add(pair[0].get<std::string>(), Json(id), TokenType::kNormal));
    vocabulary->score[id] = pair[1].get<double>();
  }
  return {};
}

Result<uint8_t> added_token_options(const Json& token, const std::string& content, const HfPipeline& pipeline,
                                    SourceNotes* notes) {
  const std::string where = "added token \"" + content + "\"";
  NWC_TRY(
      refuse_other_keys(token, where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  const auto flag = [&](const char* key, uint8_t bit, uint32_t* options) -> Status {
    bool set = false;
    NWC_TRY(get_field(token, key, &set));
    if (set) *options |= bit;
    return {};
  };
  uint32_t options = 0, special = 0;
  NWC_TRY(flag("lstrip", TokenizerRecord::kStripsLeft, &options));
  NWC_TRY(flag("rstrip", TokenizerRecord::kStripsRight, &options));
  NWC_TRY(flag("single_word", TokenizerRecord::kSingleWord, &options));
  NWC_TRY(flag("normalized", TokenizerRecord::kNormalized, &options));
  NWC_TRY(flag("special", 1, &special));
  if ((options & TokenizerRecord::kNormalized) != 0 && special != 0 && pipeline.prepends_always) {
    // It would be looked for after a normalizer has put a space in front of it, and so be found after a space alone:
    // no chat template means that.
    options &= ~static_cast<uint32_t>(TokenizerRecord::kNormalized);
    notes->push_back({NoteKind::kRepaired, "added_tokens",
                      "tokenizer.json: " + where +
                          ": the option \"normalized\": true with a normalizer of type \"Prepend\" is ignored, the "
                          "token is found without a space before it too"});
  }
  return static_cast<uint8_t>(options);
}

// Added tokens may repeat tokens of model.vocab; what they say about their type counts.
Status add_added_tokens(const Json& tokenizer, const HfPipeline& pipeline, Vocabulary* vocabulary, SourceNotes* notes) {
  const Json* added = find_field(tokenizer, "added_tokens");
  if (added == nullptr) return {};
  if (!added->is_array()) return corrupt("added_tokens must be a list");
  for (const Json& token : *added) {
    const Json* content = find_field(token, "content");
    const Json* id = find_field(token, "id");
    if (content == nullptr || !content->is_string() || id == nullptr) {
      return corrupt("added_tokens: an entry without content or id");
    }
    NWC_ASSIGN_OR_RETURN(const uint8_t options,
                         added_token_options(token, content->get<std::string>(), pipeline, notes));
    bool special = false;
    NWC_TRY(get_field(token, "special", &special));
    NWC_TRY(vocabulary->add(content->get<std::string>(), *id, special ? TokenType::kControl : TokenType::kUserDefined));
    vocabulary->options[vocabulary->ids.at(content->get<std::string>())] = options;
  }
  return {};
}

Status refuse_options(const Json& tokenizer, const Json& model, const std::string& type, SourceNotes* notes) {
  NWC_TRY(refuse_other_keys(tokenizer, "top level",
                            {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                             "post_processor", "decoder", "model"}));
  for (const char* key : {"truncation", "padding"}) {
    if (find_field(tokenizer, key) == nullptr) continue;
    notes->push_back({NoteKind::kRepaired, "tokenizer",
                      "tokenizer.json: \"" + std::string(key) + "\" is ignored, texts become tokens as they are"});
  }
  const std::string where = "model of type \"" + type + "\"";
  if (type == "Unigram") return refuse_other_keys(model, where, {"type", "unk_id", "vocab", "byte_fallback"});
  if (type == "WordPiece") {
    return refuse_other_keys(model, where,
                             {"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
  }
  if (type != "BPE") return unsupported(where + ", only BPE, Unigram and WordPiece");
  NWC_TRY(refuse_other_keys(model, where,
                            {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                             "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    std::string text;
    NWC_TRY(get_field(model, key, &text));
    if (!text.empty()) return unsupported(std::string("model.") + key + " is \"" + text + "\"");
  }
  float dropout = 0;
  NWC_TRY(get_field(model, "dropout", &dropout));
  return dropout == 0 ? Status() : unsupported("model.dropout is " + std::to_string(dropout));
}

Status set_unknown(const Json& model, Vocabulary* vocabulary, TokenizerRecord* record) {
  if (record->kind == TokenizerKind::kUnigram) {
    NWC_TRY(get_field(model, "unk_id", &record->unk_id));
    if (record->unk_id == UINT32_MAX) return {};
    if (record->unk_id >= vocabulary->text.size()) return corrupt("model.unk_id is beyond the vocabulary");
    TokenType& type = vocabulary->type[record->unk_id];
    if (type == TokenType::kNormal) type = TokenType::kUnknown;
    return {};
  }
  std::string unknown;
  NWC_TRY(get_field(model, "unk_token", &unknown));
  if (unknown.empty()) return {};
  const auto it = vocabulary->ids.find(unknown);
  if (it == vocabulary->ids.end()) return corrupt("model.unk_token \"" + unknown + "\" is not in the vocabulary");
  record->unk_id = it->second;
  // As an added token it may be written out in a text.
  if (vocabulary->type[it->second] == TokenType::kNormal) vocabulary->type[it->second] = TokenType::kUnknown;
  return {};
}

// A token of WordPiece that goes on with a word begins with a prefix in the file; in the record those that begin one
// do.
std::string word_piece_bytes(const std::string& text, const std::string& prefix) {
  const bool goes_on = !prefix.empty() && text.size() > prefix.size() && text.rfind(prefix, 0) == 0;
  return goes_on ? text.substr(prefix.size()) : " " + text;
}

Status fill_tokens(const Vocabulary& vocabulary, const std::string& prefix, TokenizerRecord* record) {
  const bool sentencepiece =
      record->kind == TokenizerKind::kSentencePieceBpe || record->kind == TokenizerKind::kUnigram;
  for (size_t i = 0; i < vocabulary.text.size(); ++i) {
    const std::string& text = vocabulary.text[i];
    TokenizerRecord::Token token;
    token.bytes = text;
    token.type = vocabulary.type[i];
    token.options = vocabulary.options[i];
    if (record->kind == TokenizerKind::kUnigram) token.score = vocabulary.score[i];
    if (token.type == TokenType::kNormal && record->kind == TokenizerKind::kWordPiece) {
      token.bytes = word_piece_bytes(text, prefix);
    } else if (token.type == TokenType::kNormal && sentencepiece) {
      const std::optional<uint8_t> byte = record->byte_fallback ? parse_byte_token(text) : std::nullopt;
      if (byte) {
        token.type = TokenType::kByte;
        token.bytes = std::string(1, static_cast<char>(*byte));
      } else {
        token.bytes = undo_visible_space(text);
      }
    } else if (token.type == TokenType::kNormal) {
      std::optional<std::string> bytes = undo_byte_alphabet(text);
      if (bytes) {
        token.bytes = std::move(*bytes);
      } else {
        token.options = TokenizerRecord::kDecodesOnly;  // no text is ever written like this
      }
    }
    record->tokens.push_back(std::move(token));
  }
  return {};
}

Result<std::vector<TokenizerRecord::Merge>> parse_merges(const Json& model, const TokenIds& ids) {
  const Json* list = find_field(model, "merges");
  if (list == nullptr || !list->is_array()) return corrupt("model.merges must be a list");
  std::vector<TokenizerRecord::Merge> merges;
  for (const Json& item : *list) {
    const size_t rank = merges.size();
    const bool pair = item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string();
    if (!pair && !item.is_string()) return corrupt("merge " + std::to_string(rank) + " must be a string or a pair");
    NWC_ASSIGN_OR_RETURN(
        const TokenizerRecord::Merge merge,
        pair ? make_merge(ids, item[0].get_ref<const std::string&>(), item[1].get_ref<const std::string&>(), rank)
             : parse_merge(ids, item.get_ref<const std::string&>(), rank));
    merges.push_back(merge);
  }
  return merges;
}

Status finish_sentencepiece(const Json& model, const HfPipeline& pipeline, TokenizerRecord* record) {
  if (record->ignore_merges) return unsupported("model.ignore_merges without ByteLevel");
  // Without merges the engine would go by scores, which this file does not have.
  if (record->merges.empty()) return unsupported("a BPE model without merges");
  bool fuse_unknown = false;
  NWC_TRY(get_field(model, "fuse_unk", &fuse_unknown));
  record->unfused_unknown = !fuse_unknown && !record->byte_fallback && record->unk_id != UINT32_MAX;
  if (!pipeline.splits_at_spaces || record->pre_tokenizer != PreTokenizer::kNone) return {};
  // It makes a difference only where merges reach across a space.
  for (const TokenizerRecord::Merge& merge : record->merges) {
    if (record->tokens[merge.result].bytes.find(' ', 1) == std::string::npos) continue;
    record->pre_tokenizer = PreTokenizer::kSpaces;
    break;
  }
  return {};
}

// Where a normalizer puts the space in front, it stands before added tokens, too, which it is then part of.
void make_prefix_a_step(TokenizerRecord* record) {
  record->add_prefix_space = record->keep_leading_space = false;
  record->normalizer.push_back({NormalizerOp::kPrepend, "", " "});
  record->normalizer.push_back({NormalizerOp::kReplace, "\xe2\x96\x81", " "});
}

bool has_normalized_token(const TokenizerRecord& record) {
  for (const TokenizerRecord::Token& token : record.tokens) {
    if ((token.options & TokenizerRecord::kNormalized) != 0) return true;
  }
  return false;
}

// Where the text is as it was, it makes no difference when a token is looked for, unless others are looked for first.
void simplify_options(TokenizerRecord* record) {
  if (!record->normalizer.empty()) return;
  bool some_raw = false;
  for (const TokenizerRecord::Token& token : record->tokens) {
    const bool added = token.type == TokenType::kControl || token.type == TokenType::kUserDefined;
    some_raw = some_raw || (added && (token.options & TokenizerRecord::kNormalized) == 0);
  }
  if (some_raw) return;
  for (TokenizerRecord::Token& token : record->tokens) {
    token.options &= static_cast<uint8_t>(~TokenizerRecord::kNormalized);
  }
}

Status set_template(const HfPipeline& pipeline, std::optional<uint32_t> config_bos, TokenizerRecord* record) {
  record->add_bos = !pipeline.before.empty();
  const std::optional<uint32_t> bos = record->add_bos ? pipeline.before.front() : config_bos;
  if (bos && *bos < record->tokens.size()) record->bos_id = *bos;
  if (record->add_bos && record->bos_id == UINT32_MAX) {
    return corrupt("post_processor: its token is not in the vocabulary");
  }
  if (record->add_bos) record->more_before.assign(pipeline.before.begin() + 1, pipeline.before.end());
  record->after = pipeline.after;
  return {};
}

Result<TokenizerRecord> parse_record(const Json& json, std::optional<uint32_t> config_bos, SourceNotes* notes) {
  const Json* model = find_field(json, "model");
  if (model == nullptr || !model->is_object()) return corrupt("no model");
  std::string type = "BPE", prefix = "##";
  NWC_TRY(get_field(*model, "type", &type));
  NWC_TRY(refuse_options(json, *model, type, notes));
  NWC_ASSIGN_OR_RETURN(HfPipeline pipeline, parse_hf_pipeline(json, type, notes));

  TokenizerRecord record;
  record.kind = pipeline.kind;
  record.pre_tokenizer = pipeline.pre_tokenizer;
  record.add_prefix_space = pipeline.add_prefix_space;
  record.prefix_first_only = pipeline.prefix_first_only;
  record.prefix_unless_space = pipeline.prefix_unless_space;
  record.keep_leading_space = pipeline.keep_leading_space;
  record.drop_leading_space = pipeline.drop_leading_space;
  record.normalizer = std::move(pipeline.normalizer);
  record.charsmap = std::move(pipeline.charsmap);
  NWC_TRY(get_field(*model, "ignore_merges", &record.ignore_merges));
  NWC_TRY(get_field(*model, "byte_fallback", &record.byte_fallback));
  const bool sentencepiece = record.kind == TokenizerKind::kSentencePieceBpe;
  const bool word_piece = record.kind == TokenizerKind::kWordPiece, unigram = record.kind == TokenizerKind::kUnigram;
  if (word_piece) {
    NWC_TRY(get_field(*model, "continuing_subword_prefix", &prefix));
    NWC_TRY(get_field(*model, "max_input_chars_per_word", &record.max_word_chars));
  }

  Vocabulary vocabulary;
  NWC_TRY(unigram ? add_scored_vocabulary(*model, &vocabulary) : add_vocabulary(*model, &vocabulary));
  NWC_TRY(add_added_tokens(json, pipeline, &vocabulary, notes));
  NWC_TRY(set_unknown(*model, &vocabulary, &record));
  NWC_TRY(fill_tokens(vocabulary, prefix, &record));
  if (!unigram && !word_piece) {
    NWC_ASSIGN_OR_RETURN(record.merges, parse_merges(*model, vocabulary.ids));
  }
  if (sentencepiece) NWC_TRY(finish_sentencepiece(*model, pipeline, &record));
  if (unigram && pipeline.splits_at_spaces && record.pre_tokenizer == PreTokenizer::kNone) {
    record.pre_tokenizer = PreTokenizer::kSpaces;
  }
  if (!sentencepiece && !unigram && record.byte_fallback) {
    return unsupported("model.byte_fallback together with ByteLevel");
  }
  if (pipeline.prepends_always && has_normalized_token(record)) {
    record.drop_leading_space = !record.keep_leading_space;
    make_prefix_a_step(&record);
  }
  simplify_options(&record);
  NWC_TRY(set_template(pipeline, config_bos, &record));
  NWC_TRY(validate(record));
  return record;
}

}  // namespace

Result<TokenizerRecord> parse_hf_tokenizer(Bytes text, std::optional<uint32_t> config_bos, SourceNotes* notes) {
  NWC_ASSIGN_OR_RETURN(const Json json, parse_json(text, "tokenizer.json"));
  Result<TokenizerRecord> record = parse_record(json, config_bos, notes);
  if (!record.ok()) return record.status().with_context("tokenizer.json");
  return record;
}

}  // namespace nwc
