#include "trainer/data/hf_tokenizer_config.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

constexpr char kFile[] = "tokenizer_config.json";

/// The id of the token that "bos_token" or "eos_token" names, as its text or as an object that holds it.
std::optional<uint32_t> token_of(const Json& config, const char* key, const TokenizerRecord& record) {
  const Json* token = find_field(config, key);
  if (token != nullptr && token->is_object()) token = find_field(*token, "content");
  if (token == nullptr || !token->is_string()) return std::nullopt;
  const std::string text = token->get<std::string>();
  for (uint32_t id = 0; id < record.tokens.size() && !text.empty(); ++id) {
    if (record.tokens[id].type != TokenType::kNormal && record.tokens[id].bytes == text) return id;
  }
  return std::nullopt;
}

class Applier {
 public:
  Applier(const Json& config, TokenizerRecord* record, SourceNotes* notes)
      : config_(config), record_(record), notes_(notes) {}

  void apply_bos() {
    bool wanted = record_->add_bos;
    if (!read("add_bos_token", &wanted) || wanted == record_->add_bos) return;
    const std::optional<uint32_t> bos = token_of(config_, "bos_token", *record_);
    if (!wanted) {
      // What else stands in front of a text is none of the key's business.
      if (!record_->more_before.empty() || (bos && *bos != record_->bos_id)) return;
      record_->add_bos = false;
    } else {
      const uint32_t id = bos.value_or(record_->bos_id);
      if (id >= record_->tokens.size())
        return note("\"add_bos_token\" is true, but no \"bos_token\" is known; ignored");
      record_->bos_id = id;
      record_->add_bos = true;
    }
    note(std::string("\"add_bos_token\" is ") + (wanted ? "true" : "false") +
         " and is followed; tokenizer.json has it the other way");
  }

  void apply_eos() {
    bool wanted = !record_->after.empty();
    if (!read("add_eos_token", &wanted) || wanted == !record_->after.empty()) return;
    const std::optional<uint32_t> eos = token_of(config_, "eos_token", *record_);
    if (!wanted) {
      if (record_->after.size() != 1 || record_->after[0] != eos) return;
      record_->after.clear();
    } else {
      if (!eos) return note("\"add_eos_token\" is true, but no \"eos_token\" is known; ignored");
      record_->after = {*eos};
    }
    note(std::string("\"add_eos_token\" is ") + (wanted ? "true" : "false") +
         " and is followed; tokenizer.json has it the other way");
  }

 private:
  /// False where the key is absent or is no bool, which a note says.
  bool read(const char* key, bool* out) {
    const Status status = get_field(config_, key, out);
    if (!status.ok()) note(status.message() + "; ignored");
    return status.ok() && find_field(config_, key) != nullptr;
  }
  void note(const std::string& text) {
    notes_->push_back({NoteKind::kRepaired, "special_tokens", std::string(kFile) + ": " + text});
  }

  const Json& config_;
  TokenizerRecord* record_;
  SourceNotes* notes_;
};

}  // namespace

void apply_tokenizer_config(Bytes json, TokenizerRecord* record, SourceNotes* notes) {
  const Result<Json> config = parse_json(json, kFile);
  if (!config.ok()) {
    notes->push_back({NoteKind::kRepaired, "special_tokens", config.status().message() + "; it is ignored"});
    return;
  }
  Applier applier(*config, record, notes);
  applier.apply_bos();
  applier.apply_eos();
}

}  // namespace nwc
