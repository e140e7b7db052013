#include "trainer/data/hf_write.h"

#include <nlohmann/json.hpp>

#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

std::string dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

Bytes bytes_of(const std::string& text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

Json ids_json(const std::vector<uint32_t>& ids) { return ids.size() == 1 ? Json(ids[0]) : Json(ids); }

void add_token(const TokenizerRecord& record, const char* key, uint32_t id, Json* json) {
  if (id < record.tokens.size()) (*json)[key] = record.tokens[id].bytes;
}

}  // namespace

std::string torch_dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32: return "float32";
    case Dtype::kF16: return "float16";
    case Dtype::kBf16: return "bfloat16";
    default: return "";
  }
}

Result<std::string> adapt_hf_config(const std::string& config, Dtype dtype, bool drop_quantization) {
  NWC_ASSIGN_OR_RETURN(Json json, parse_json(bytes_of(config), "config.json"));
  if (!json.is_object()) return corrupt("config.json must hold an object");
  const Json before = json;
  if (const std::string name = torch_dtype_name(dtype); !name.empty()) {
    json[json.contains("dtype") ? "dtype" : "torch_dtype"] = name;
  }
  if (drop_quantization) json.erase("quantization_config");
  return json == before ? config : dump(json);
}

std::string hf_quant_method(const std::string& config) {
  const Result<Json> json = parse_json(bytes_of(config), "config.json");
  std::string method;
  const Json* quantization = json.ok() ? find_field(*json, "quantization_config") : nullptr;
  if (quantization == nullptr || !get_field(*quantization, "quant_method", &method).ok()) return "";
  return method;
}

std::string make_hf_tokenizer_config(const TokenizerRecord& record, const TokenizerConfig& config,
                                     uint32_t max_positions) {
  Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
               {"clean_up_tokenization_spaces", false},
               {"add_bos_token", record.add_bos}};
  // Only of the token that is EOS: what else stands behind a text is for tokenizer.json to say.
  if (record.after.empty()) {
    json["add_eos_token"] = false;
  } else if (record.after == std::vector<uint32_t>{config.eos_id}) {
    json["add_eos_token"] = true;
  }
  add_token(record, "bos_token", config.bos_id, &json);
  add_token(record, "eos_token", config.eos_id, &json);
  add_token(record, "unk_token", config.unk_id, &json);
  add_token(record, "pad_token", config.pad_id, &json);
  if (max_positions != 0) json["model_max_length"] = max_positions;
  if (config.chat_templates.size() == 1 && config.chat_templates[0].first == "default") {
    json["chat_template"] = config.chat_templates[0].second;
  } else if (!config.chat_templates.empty()) {
    Json list = Json::array();
    for (const auto& [name, text] : config.chat_templates) list.push_back({{"name", name}, {"template", text}});
    json["chat_template"] = std::move(list);
  }
  return dump(json);
}

std::string make_hf_generation_config(const ModelRecord& model, const TokenizerConfig& config) {
  Json json = Json::object();
  if (config.bos_id != UINT32_MAX) json["bos_token_id"] = config.bos_id;
  if (!model.eos_ids.empty()) json["eos_token_id"] = ids_json(model.eos_ids);
  if (config.pad_id != UINT32_MAX) json["pad_token_id"] = config.pad_id;
  return dump(json);
}

}  // namespace nwc
