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

// The engine finds an added token wherever its text stands, and takes nothing around it.
Status check_added_token(const Json& token, const std::string& content, const HfPipeline& pipeline,
                         SourceNotes* notes) {
  const std::string where = "added token \"" + content + "\"";
  NWC_TRY(
      refuse_other_keys(token, where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    bool set = false;
    NWC_TRY(get_field(token, key, &set));
    if (set) return unsupported(where + ": the option \"" + key + "\": true");
  }
  bool special = false, normalized = false;
  NWC_TRY(get_field(token, "special", &special));
  NWC_TRY(get_field(token, "normalized", &normalized));
  if (!normalized || !pipeline.prepends_always) return {};
  // It is looked for after a normalizer has put a space in front of it, and so is found after a space alone.
  const std::string option = where + ": the option \"normalized\": true with a normalizer of type \"Prepend\"";
  if (!special) return unsupported(option);
  notes->push_back({NoteKind::kRepaired, "added_tokens",
                    "tokenizer.json: " + option + " is ignored, the token is found without a space before it too"});
  return {};
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
    NWC_TRY(check_added_token(token, content->get<std::string>(), pipeline, notes));
    bool special = false;
    NWC_TRY(get_field(token, "special", &special));
    NWC_TRY(vocabulary->add(content->get<std::string>(), *id, special ? TokenType::kControl : TokenType::kUserDefined));
  }
  return {};
}

Status refuse_options(const Json& tokenizer, const Json& model, SourceNotes* notes) {
  NWC_TRY(refuse_other_keys(tokenizer, "top level",
                            {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                             "post_processor", "decoder", "model"}));
  for (const char* key : {"truncation", "padding"}) {
    if (find_field(tokenizer, key) == nullptr) continue;
    notes->push_back({NoteKind::kRepaired, "tokenizer",
                      "tokenizer.json: \"" + std::string(key) + "\" is ignored, texts become tokens as they are"});
  }
  std::string type = "BPE";
  NWC_TRY(get_field(model, "type", &type));
  if (type != "BPE") return unsupported("model of type \"" + type + "\", only BPE");
  NWC_TRY(refuse_other_keys(model, "model of type \"BPE\"",
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

Status fill_tokens(const Vocabulary& vocabulary, TokenizerRecord* record) {
  const bool sentencepiece = record->kind == TokenizerKind::kSentencePieceBpe;
  for (size_t i = 0; i < vocabulary.text.size(); ++i) {
    const std::string& text = vocabulary.text[i];
    TokenizerRecord::Token token;
    token.bytes = text;
    token.type = vocabulary.type[i];
    if (token.type == TokenType::kNormal && sentencepiece) {
      const std::optional<uint8_t> byte = record->byte_fallback ? parse_byte_token(text) : std::nullopt;
      if (byte) {
        token.type = TokenType::kByte;
        token.bytes = std::string(1, static_cast<char>(*byte));
      } else {
        token.bytes = undo_visible_space(text);
      }
    } else if (token.type == TokenType::kNormal) {
      std::optional<std::string> bytes = undo_byte_alphabet(text);
      if (!bytes) return corrupt("token " + std::to_string(i) + " has a character outside the byte-level alphabet");
      token.bytes = std::move(*bytes);
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

Status check_sentencepiece(const Json& model, const HfPipeline& pipeline, const TokenizerRecord& record) {
  if (record.ignore_merges) return unsupported("model.ignore_merges without ByteLevel");
  // Without merges the engine would go by scores, which this file does not have.
  if (record.merges.empty()) return unsupported("a BPE model without merges");
  bool fuse_unknown = false;
  NWC_TRY(get_field(model, "fuse_unk", &fuse_unknown));
  if (!fuse_unknown && !record.byte_fallback && record.unk_id != UINT32_MAX) {
    return unsupported("model.fuse_unk is false: the engine makes one unknown token of several in a row");
  }
  if (!pipeline.splits_at_spaces) return {};
  for (const TokenizerRecord::Merge& merge : record.merges) {
    if (record.tokens[merge.result].bytes.find(' ', 1) == std::string::npos) continue;
    return unsupported("pre_tokenizer of type \"Metaspace\": the option \"split\": true, with merges across spaces");
  }
  return {};
}

Result<TokenizerRecord> parse_record(const Json& json, std::optional<uint32_t> config_bos, SourceNotes* notes) {
  const Json* model = find_field(json, "model");
  if (model == nullptr || !model->is_object()) return corrupt("no model");
  NWC_TRY(refuse_options(json, *model, notes));
  NWC_ASSIGN_OR_RETURN(const HfPipeline pipeline, parse_hf_pipeline(json, notes));

  TokenizerRecord record;
  record.kind = pipeline.kind;
  record.pre_tokenizer = pipeline.pre_tokenizer;
  record.add_prefix_space = pipeline.add_prefix_space;
  record.prefix_first_only = pipeline.prefix_first_only;
  record.prefix_unless_space = pipeline.prefix_unless_space;
  NWC_TRY(get_field(*model, "ignore_merges", &record.ignore_merges));
  NWC_TRY(get_field(*model, "byte_fallback", &record.byte_fallback));

  Vocabulary vocabulary;
  NWC_TRY(add_vocabulary(*model, &vocabulary));
  NWC_TRY(add_added_tokens(json, pipeline, &vocabulary, notes));
  NWC_TRY(set_unknown(*model, &vocabulary, &record));
  NWC_TRY(fill_tokens(vocabulary, &record));
  NWC_ASSIGN_OR_RETURN(record.merges, parse_merges(*model, vocabulary.ids));
  const bool sentencepiece = record.kind == TokenizerKind::kSentencePieceBpe;
  if (sentencepiece) NWC_TRY(check_sentencepiece(*model, pipeline, record));
  if (!sentencepiece && record.byte_fallback) return unsupported("model.byte_fallback together with ByteLevel");

  record.add_bos = pipeline.bos_id.has_value();
  const std::optional<uint32_t> bos = record.add_bos ? pipeline.bos_id : config_bos;
  if (bos && *bos < record.tokens.size()) record.bos_id = *bos;
  if (record.add_bos && record.bos_id == UINT32_MAX)
    return corrupt("post_processor: its token is not in the vocabulary");
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
