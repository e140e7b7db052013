#include "trainer/data/chat_template.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/format/utf8_check.h"
#include "trainer/data/gguf_kept.h"
#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

std::string text_of(const SourceFile& file) { return std::string(file.bytes.begin(), file.bytes.end()); }

/// A file that is missing or no JSON is an empty object: other readers say what is wrong with it.
Json load_json(const SourceRecord& source, const char* name) {
  const SourceFile* file = source.find(name);
  if (file == nullptr) return Json::object();
  size_t replaced = 0;
  Result<Json> json = parse_python_json(file->bytes, name, &replaced);
  return json.ok() ? std::move(*json) : Json::object();
}

/// A special token is given as its text, or as an object that holds it.
std::string token_text(const Json& config, const char* key) {
  const Json* token = find_field(config, key);
  if (token != nullptr && token->is_object()) token = find_field(*token, "content");
  return token != nullptr && token->is_string() ? token->get<std::string>() : "";
}

/// The value of chat_template: a text, or a list of which the entry "default" counts.
std::optional<std::string> template_text(const Json* field) {
  if (field == nullptr) return std::nullopt;
  if (field->is_string()) return field->get<std::string>();
  for (const Json& item : field->is_array() ? *field : Json::array()) {
    const Json *name = find_field(item, "name"), *text = find_field(item, "template");
    if (name != nullptr && text != nullptr && name->is_string() && text->is_string() &&
        name->get<std::string>() == "default")
      return text->get<std::string>();
  }
  return std::nullopt;
}

std::optional<ChatTemplate> find_in_folder(const SourceRecord& source) {
  const Json config = load_json(source, "tokenizer_config.json");
  const Json map = load_json(source, "special_tokens_map.json");
  std::optional<std::string> jinja;
  if (const SourceFile* file = source.find("chat_template.jinja")) jinja = text_of(*file);
  if (!jinja) jinja = template_text(find_field(config, "chat_template"));
  if (!jinja) jinja = template_text(find_field(load_json(source, "chat_template.json"), "chat_template"));
  if (!jinja) return std::nullopt;
  ChatTemplate chat{std::move(*jinja), token_text(config, "bos_token"), token_text(config, "eos_token")};
  if (chat.bos.empty()) chat.bos = token_text(map, "bos_token");
  if (chat.eos.empty()) chat.eos = token_text(map, "eos_token");
  return chat;
}

std::optional<ChatTemplate> find_in_gguf(const SourceRecord& source, const TokenizerRecord* tokenizer) {
  const Result<GgufFile> header = open_kept_gguf(source);
  if (!header.ok()) return std::nullopt;
  const Result<TokenizerConfig> config = read_gguf_tokenizer_config(*header);
  if (!config.ok()) return std::nullopt;
  const auto& templates = config->chat_templates;
  const auto found =
      std::find_if(templates.begin(), templates.end(), [](const auto& t) { return t.first == "default"; });
  if (found == templates.end()) return std::nullopt;
  ChatTemplate chat{found->second, "", ""};
  const auto text = [&](uint32_t id) {
    return tokenizer != nullptr && id < tokenizer->tokens.size() ? tokenizer->tokens[id].bytes : std::string();
  };
  chat.bos = text(config->bos_id);
  chat.eos = text(config->eos_id);
  return chat;
}

}  // namespace

std::optional<ChatTemplate> find_chat_template(const SourceRecord& source, const TokenizerRecord* tokenizer) {
  return source.kind == SourceKind::kGguf ? find_in_gguf(source, tokenizer) : find_in_folder(source);
}

std::optional<ChatRecord> derive_chat_record(const SourceRecord& source, const TokenizerRecord* tokenizer,
                                             std::string* warning) {
  warning->clear();
  std::optional<ChatTemplate> chat = find_chat_template(source, tokenizer);
  if (!chat) return std::nullopt;
  if (chat->jinja.size() > kMaxChatTemplateBytes || !is_valid_utf8(chat->jinja)) {
    *warning = "the chat template is not kept: it has more than 1 MiB or is not UTF-8";
    return std::nullopt;
  }
  ChatRecord record{chat->jinja, recognise_chat_template(*chat)};
  if (record.format && !validate(record).ok())
    record.format.reset();  // a token's text or a system text beyond the limits
  if (!record.format)
    *warning = "the chat template is not one that this program knows: it is kept, but nwc run --chat will not work";
  return record;
}

}  // namespace nwc
