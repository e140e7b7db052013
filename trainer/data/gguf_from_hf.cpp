#include "trainer/data/gguf_from_hf.h"

#include <nlohmann/json.hpp>

#include "runtime/base/os.h"
#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

std::string_view text_of(const SourceFile& file) {
  return {reinterpret_cast<const char*>(file.bytes.data()), file.bytes.size()};
}

/// The object in the file; an empty one where it is not there, or is none, which `notes` says.
Json load_object(const SourceRecord& source, const std::string& name, std::vector<std::string>* notes) {
  const SourceFile* file = source.find(name);
  if (file == nullptr) return Json::object();
  Result<Json> json = parse_json(file->bytes, name);
  if (json.ok() && json->is_object()) return std::move(json).value();
  notes->push_back(json.ok() ? name + " does not hold an object; nothing was taken from it"
                             : json.status().message() + "; nothing was taken from it");
  return Json::object();
}

// "license: apache-2.0" in the front matter of a model card.
std::string license_of(std::string_view card) {
  constexpr std::string_view kFence = "---\n", kKey = "license:";
  if (!card.starts_with(kFence)) return "";
  card.remove_prefix(kFence.size());
  while (!card.empty() && !card.starts_with("---")) {
    std::string_view line = card.substr(0, card.find('\n'));
    card.remove_prefix(std::min(card.size(), line.size() + 1));
    if (!line.starts_with(kKey)) continue;
    line.remove_prefix(kKey.size());
    const size_t first = line.find_first_not_of(" \t\"'"), last = line.find_last_not_of(" \t\"'\r");
    return first == line.npos ? "" : std::string(line.substr(first, last - first + 1));
  }
  return "";
}

// A special token is given as its text, or as an object that holds it.
std::string token_text(const Json& config, const char* key) {
  const Json* token = find_field(config, key);
  if (token != nullptr && token->is_object()) token = find_field(*token, "content");
  return token != nullptr && token->is_string() ? token->get<std::string>() : "";
}

void add_chat_templates(const SourceRecord& source, const Json& config, GgufMetadata* metadata,
                        std::vector<std::string>* notes) {
  const std::string kKey = "tokenizer.chat_template";
  const SourceFile* jinja = source.find("chat_template.jinja");
  if (jinja != nullptr) metadata->add_string(kKey, std::string(text_of(*jinja)));
  const Json separate = load_object(source, "chat_template.json", notes);
  const Json* field = find_field(config, "chat_template");
  if (field == nullptr) field = find_field(separate, "chat_template");
  if (field == nullptr) return;
  if (field->is_string()) {
    if (jinja == nullptr) metadata->add_string(kKey, field->get<std::string>());
    return;
  }
  std::vector<std::string> names;
  for (const Json& item : field->is_array() ? *field : Json::array()) {
    const Json *name = find_field(item, "name"), *text = find_field(item, "template");
    if (name == nullptr || text == nullptr || !name->is_string() || !text->is_string()) continue;
    const std::string title = name->get<std::string>();
    if (title == "default") {
      if (jinja == nullptr) metadata->add_string(kKey, text->get<std::string>());
    } else if (std::find(names.begin(), names.end(), title) == names.end()) {
      names.push_back(title);
      metadata->add_string(kKey + "." + title, text->get<std::string>());
    }
  }
  if (!names.empty()) metadata->add_strings("tokenizer.chat_templates", names);
}

}  // namespace

void add_gguf_extras(const SourceRecord& source, const TokenizerRecord& tokenizer, const std::string& name,
                     GgufMetadata* metadata, std::vector<std::string>* notes) {
  const Json config = load_object(source, "config.json", notes);
  const Json tokens = load_object(source, "tokenizer_config.json", notes);
  std::string title;
  if (!get_field(config, "_name_or_path", &title).ok() || title.empty()) title = name;
  while (!title.empty() && os::name_begin(title) == title.size()) title.pop_back();
  title = title.substr(os::name_begin(title));
  if (!title.empty()) metadata->add_string("general.name", title);
  const SourceFile* card = source.find("README.md");
  if (const std::string license = card == nullptr ? "" : license_of(text_of(*card)); !license.empty()) {
    metadata->add_string("general.license", license);
  }
  add_chat_templates(source, tokens, metadata, notes);

  uint32_t pad = UINT32_MAX;
  const std::string text = token_text(tokens, "pad_token");
  for (uint32_t id = 0; id < tokenizer.tokens.size() && !text.empty(); ++id) {
    if (tokenizer.tokens[id].type != TokenType::kNormal && tokenizer.tokens[id].bytes == text) pad = id;
  }
  if (pad == UINT32_MAX && !get_field(config, "pad_token_id", &pad).ok()) pad = UINT32_MAX;  // -1 means none
  if (pad < tokenizer.tokens.size()) metadata->add_u32("tokenizer.ggml.padding_token_id", pad);
}

}  // namespace nwc
