#include "trainer/data/hf_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/hf_family.h"
#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxEosIds = 16;  // doc/format_model.md, section MODEL

/// The family of a configuration. A multimodal model's language model stands in "text_config".
Result<const Family*> find_architecture(ConfigReader& config) {
  std::string name, type;
  NWC_TRY(config.get("model_type", &type));
  if (const Json* list = config.find("architectures"); list != nullptr && list->is_array() && !list->empty()) {
    if (!list->front().is_string()) return corrupt("field \"architectures\" must be a list of strings");
    name = list->front().get<std::string>();
  }
  const Family* family = find_family(name, type);
  if (family == nullptr) {
    return unsupported("architecture \"" + (name.empty() ? type : name) + "\" is unknown; known are " +
                       known_architectures());
  }
  if (!type.empty() && type != family->model_type) {
    return unsupported("\"architectures\" has \"" + name + "\", but \"model_type\" is \"" + type + "\"");
  }
  return family;
}

bool is_fp8_in_blocks(const Json& quantization) {
  const Json* method = find_field(quantization, "quant_method");
  const Json* size = find_field(quantization, "weight_block_size");
  if (method == nullptr || *method != "fp8" || size == nullptr || !size->is_array() || size->size() != 2) return false;
  return std::all_of(size->begin(), size->end(), [](const Json& n) {
    const std::optional<uint64_t> number = as_u64(n);
    return number && *number != 0 && *number <= UINT32_MAX;
  });
}

// Weights that read_f32 cannot give as they are. Block-scaled FP8 is multiplied out by the source.
Status check_quantization(const Json& config) {
  for (const char* key : {"quantization_config", "quantization", "compression_config"}) {
    const Json* value = find_field(config, key);
    if (value == nullptr) continue;
    const Json* method = find_field(*value, "quant_method");
    if (is_fp8_in_blocks(*value) || (method != nullptr && *method == "mxfp4")) continue;
    return unsupported("\"" + std::string(key) + "\"" +
                       (method != nullptr ? " has \"quant_method\" " + short_json(*method) : std::string()) +
                       ": these weights are quantized in a form that is not read; use the original model");
  }
  return {};
}

// An id, or a list of ids. What cannot end a text, since it is no token, or since there are too many, is ignored.
void add_eos_ids(const Json& config, const char* file, HfConfig* result) {
  const Json* field = find_field(config, "eos_token_id");
  if (field == nullptr) return;
  ModelRecord& model = result->model;
  const Json list = field->is_array() ? *field : Json::array({*field});
  Json foreign = Json::array(), beyond = Json::array();
  for (const Json& item : list) {
    const std::optional<uint64_t> id = as_u64(item);
    if (!id || *id >= model.vocab_size) {
      foreign.push_back(item);
      continue;
    }
    const auto value = static_cast<uint32_t>(*id);
    if (std::find(model.eos_ids.begin(), model.eos_ids.end(), value) != model.eos_ids.end()) continue;
    if (model.eos_ids.size() < kMaxEosIds) {
      model.eos_ids.push_back(value);
    } else {
      beyond.push_back(item);
    }
  }
  const std::string where = std::string(file) + ": \"eos_token_id\": ";
  if (!foreign.empty()) {
    result->notes.push_back(
        {NoteKind::kRepaired, "end_tokens",
         where + short_json(foreign) + " ignored, no token of the vocabulary of " + std::to_string(model.vocab_size)});
  }
  if (!beyond.empty()) {
    result->notes.push_back({NoteKind::kRepaired, "end_tokens",
                             where + short_json(beyond) + " ignored, generation stops at " +
                                 std::to_string(kMaxEosIds) + " different tokens at most"});
  }
}

void read_bos_id(const Json& config, HfConfig* result) {
  const Json* bos = find_field(config, "bos_token_id");
  if (bos == nullptr) return;
  const std::optional<uint64_t> id = as_u64(*bos);
  if (id && *id < result->model.vocab_size) {
    result->bos_id = static_cast<uint32_t>(*id);
  } else {
    result->notes.push_back({NoteKind::kRepaired, "begin_token",
                             "config.json: \"bos_token_id\": " + short_json(*bos) +
                                 " ignored, no token of the vocabulary of " +
                                 std::to_string(result->model.vocab_size)});
  }
}

Status read_config(const Json& config, HfConfig* result) {
  NWC_TRY(check_quantization(config));
  const Json* text = find_field(config, "text_config");
  const bool inner = text != nullptr && text->is_object();
  ConfigReader reader(inner ? *text : config);
  NWC_ASSIGN_OR_RETURN(result->family, find_architecture(reader));
  for (const char* key : {"bos_token_id", "eos_token_id", "quantization", "quantization_config", "compression_config"})
    reader.find(key);
  ModelRecord& model = result->model;
  model.names = result->family->names();
  NWC_TRY(result->family->read(reader, &model));
  std::vector<std::string> unknown;
  NWC_TRY(check_config_keys(reader, &unknown));
  if (!unknown.empty()) {
    result->notes.push_back({NoteKind::kGuessed, "config",
                             "config.json: unknown keys are taken to change nothing: " + short_json(Json(unknown))});
  }
  if (inner) {
    read_bos_id(config, result);
    add_eos_ids(config, "config.json", result);
  }
  read_bos_id(reader.json(), result);
  add_eos_ids(reader.json(), "config.json", result);
  return {};
}

}  // namespace

std::optional<std::array<uint32_t, 2>> find_fp8_blocks(Bytes config_text) {
  size_t num_replaced = 0;
  const Result<Json> config = parse_python_json(config_text, "config.json", &num_replaced);
  const Json* quantization = config.ok() ? find_field(*config, "quantization_config") : nullptr;
  if (quantization == nullptr || !is_fp8_in_blocks(*quantization)) return std::nullopt;
  const Json& size = *find_field(*quantization, "weight_block_size");
  std::array<uint32_t, 2> blocks{};
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<uint32_t>(*as_u64(size[i]));
  return blocks;
}

bool has_mxfp4_weights(Bytes config_text) {
  size_t num_replaced = 0;
  const Result<Json> config = parse_python_json(config_text, "config.json", &num_replaced);
  const Json* quantization = config.ok() ? find_field(*config, "quantization_config") : nullptr;
  const Json* method = quantization == nullptr ? nullptr : find_field(*quantization, "quant_method");
  return method != nullptr && *method == "mxfp4";
}

Result<HfConfig> parse_hf_config(Bytes config_text, const Bytes* generation_config) {
  size_t num_replaced = 0;
  NWC_ASSIGN_OR_RETURN(const Json config, parse_python_json(config_text, "config.json", &num_replaced));
  if (!config.is_object()) return corrupt("config.json must hold an object");
  HfConfig result;
  NWC_TRY(read_config(config, &result).with_context("config.json"));
  if (num_replaced != 0) {
    result.notes.push_back({NoteKind::kRepaired, "config",
                            "config.json: NaN or infinity " + std::to_string(num_replaced) +
                                " times, which is no JSON, in keys that change nothing"});
  }
  if (generation_config != nullptr) {
    const Result<Json> generation = parse_python_json(*generation_config, "generation_config.json", &num_replaced);
    if (generation.ok()) {
      add_eos_ids(*generation, "generation_config.json", &result);
    } else {
      result.notes.push_back(
          {NoteKind::kRepaired, "generation_config", generation.status().message() + "; it is ignored"});
    }
  }
  NWC_TRY(validate(result.model).with_context("config.json"));
  return result;
}

}  // namespace nwc
