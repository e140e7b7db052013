#include "trainer/data/hf_write.h"

#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

std::string dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

// The shortest decimal that reads back as the same float: 1e-05, not 9.999999747378752e-06.
double shortest(float value) {
  char text[32] = {};
  const std::to_chars_result end = std::to_chars(text, text + sizeof text - 1, value);
  return end.ec == std::errc() ? std::strtod(text, nullptr) : static_cast<double>(value);
}

Bytes bytes_of(const std::string& text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

Json ids_json(const std::vector<uint32_t>& ids) { return ids.size() == 1 ? Json(ids[0]) : Json(ids); }

Json rope_scaling_json(const ModelRecord& m) {
  switch (m.block().rope.scaling) {
    case RopeScaling::kNone: return nullptr;
    case RopeScaling::kLinear: return {{"rope_type", "linear"}, {"factor", shortest(m.block().rope.factor)}};
    case RopeScaling::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", shortest(m.block().rope.factor)},
              {"low_freq_factor", shortest(m.block().rope.low_freq_factor)},
              {"high_freq_factor", shortest(m.block().rope.high_freq_factor)},
              {"original_max_position_embeddings", m.block().rope.original_max_positions}};
    case RopeScaling::kYarn:
    case RopeScaling::kLong:
    case RopeScaling::kDynamic: break;
  }
  return nullptr;
}

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

std::string make_hf_config(const ModelRecord& m, const TokenizerRecord* tokenizer, Dtype dtype) {
  Json json = {{"architectures", {"LlamaForCausalLM"}},
               {"model_type", "llama"},
               {"vocab_size", m.vocab_size},
               {"hidden_size", m.hidden_size},
               {"intermediate_size", m.block().intermediate_size},
               {"num_hidden_layers", m.num_layers},
               {"num_attention_heads", m.block().num_heads},
               {"num_key_value_heads", m.block().num_kv_heads},
               {"head_dim", m.block().head_dim},
               {"max_position_embeddings", m.max_positions},
               {"rms_norm_eps", shortest(m.block().norm_eps)},
               {"rope_theta", shortest(m.block().rope.theta)},
               {"rope_scaling", rope_scaling_json(m)},
               {"tie_word_embeddings", m.tied_embeddings},
               {"hidden_act", "silu"},
               {"attention_bias", false},
               {"mlp_bias", false},
               {"torch_dtype", torch_dtype_name(dtype)}};
  if (!m.eos_ids.empty()) json["eos_token_id"] = ids_json(m.eos_ids);
  if (tokenizer != nullptr && tokenizer->bos_id != UINT32_MAX) json["bos_token_id"] = tokenizer->bos_id;
  return dump(json);
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
               {"add_bos_token", record.add_bos},
               {"add_eos_token", config.add_eos}};
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
