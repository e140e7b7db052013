#include "trainer/data/hf_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <tuple>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

// Defaults of MistralConfig and LlamaConfig. A null in the file means no window, or as many KV heads as heads.
constexpr uint32_t kMistralSlidingWindow = 4096;
constexpr uint32_t kMistralKvHeads = 8;
constexpr uint32_t kMistralPositions = 131072;
constexpr uint32_t kLlamaPositions = 2048;
constexpr size_t kMaxEosIds = 16;  // doc/format_model.md, section MODEL

enum class Architecture { kLlama, kMistral };

Result<Architecture> find_architecture(const Json& config) {
  std::string name, type;
  NWC_TRY(get_field(config, "model_type", &type));
  if (const Json* list = find_field(config, "architectures"); list != nullptr && list->is_array() && !list->empty()) {
    if (!list->front().is_string()) return corrupt("field \"architectures\" must be a list of strings");
    name = list->front().get<std::string>();
  } else {
    name = type == "llama" ? "LlamaForCausalLM" : type == "mistral" ? "MistralForCausalLM" : type;
  }
  if (name != "LlamaForCausalLM" && name != "MistralForCausalLM") {
    return unsupported("architecture \"" + name + "\" is not of the Llama family");
  }
  const bool llama = name == "LlamaForCausalLM";
  if (!type.empty() && type != (llama ? "llama" : "mistral")) {
    return unsupported("\"architectures\" has \"" + name + "\", but \"model_type\" is \"" + type + "\"");
  }
  return llama ? Architecture::kLlama : Architecture::kMistral;
}

Status require_sizes(const Json& config, Architecture architecture, ModelRecord* model) {
  const std::pair<const char*, uint32_t*> sizes[] = {
      {"vocab_size", &model->vocab_size},
      {"hidden_size", &model->hidden_size},
      {"intermediate_size", &model->intermediate_size},
      {"num_hidden_layers", &model->num_layers},
      {"num_attention_heads", &model->num_heads},
  };
  for (const auto& [key, out] : sizes) {
    NWC_TRY(get_field(config, key, out));
    if (*out == 0) return corrupt(std::string("field \"") + key + "\" must be a positive integer");
  }
  const bool mistral = architecture == Architecture::kMistral;
  model->num_kv_heads = mistral && !config.contains("num_key_value_heads") ? kMistralKvHeads : model->num_heads;
  NWC_TRY(get_field(config, "num_key_value_heads", &model->num_kv_heads));
  model->head_dim = model->hidden_size / model->num_heads;
  NWC_TRY(get_field(config, "head_dim", &model->head_dim));
  model->max_positions = mistral ? kMistralPositions : kLlamaPositions;
  return get_field(config, "max_position_embeddings", &model->max_positions);
}

// Attention over the last `window` positions only is full attention where no text is longer than that.
Status check_window(const Json& config, Architecture architecture, uint32_t max_positions) {
  bool used = true;
  if (architecture == Architecture::kLlama) NWC_TRY(get_field(config, "use_sliding_window", &used));
  uint32_t window =
      architecture == Architecture::kLlama || config.contains("sliding_window") ? UINT32_MAX : kMistralSlidingWindow;
  NWC_TRY(get_field(config, "sliding_window", &window));
  if (used && window < max_positions) {
    return unsupported("\"sliding_window\" is " + std::to_string(window) +
                       ": attention over a sliding window shorter " + "than the context of " +
                       std::to_string(max_positions) + " positions");
  }
  const Json* types = find_field(config, "layer_types");
  if (types == nullptr) return {};
  if (!types->is_array()) return corrupt("field \"layer_types\" must be a list");
  for (const Json& type : *types) {
    const bool full = type == "full_attention" || (type == "sliding_attention" && window != UINT32_MAX);
    if (!full) return unsupported("\"layer_types\" has a layer of type " + short_json(type));
  }
  return {};
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
    if (is_fp8_in_blocks(*value)) continue;
    return unsupported("\"" + std::string(key) + "\"" +
                       (method != nullptr ? " has \"quant_method\" " + short_json(*method) : std::string()) +
                       ": these weights are quantized in a form that is not read; use the original model");
  }
  return {};
}

// `key` is "rope_scaling", or the newer "rope_parameters", which has rope_theta too.
Status read_rope_scaling(const Json& config, const char* key, ModelRecord* model) {
  const Json* scaling = find_field(config, key);
  if (scaling == nullptr) return {};
  const std::string where = "\"" + std::string(key) + "\"";
  if (!scaling->is_object()) return corrupt(where + " must be an object");
  std::string type = "default";
  NWC_TRY(get_field(*scaling, "type", &type));
  NWC_TRY(get_field(*scaling, "rope_type", &type));
  if (type != "default" && type != "linear" && type != "llama3") {
    return unsupported(where + " has the type \"" + type + "\"; the engine runs default, linear and llama3");
  }
  for (const auto& [name, value] : scaling->items()) {
    constexpr std::string_view kKnown[] = {"type",
                                           "rope_type",
                                           "rope_theta",
                                           "factor",
                                           "low_freq_factor",
                                           "high_freq_factor",
                                           "original_max_position_embeddings"};
    const bool whole = name == "partial_rotary_factor" && value == 1;
    if (value.is_null() || whole || std::find(std::begin(kKnown), std::end(kKnown), name) != std::end(kKnown)) continue;
    return unsupported(where + " has \"" + name + "\": " + short_json(value) + ", which is unknown with the type " +
                       type);
  }
  NWC_TRY(get_field(*scaling, "rope_theta", &model->rope_theta));
  if (type == "default") return {};
  model->rope_factor = 0;
  NWC_TRY(get_field(*scaling, "factor", &model->rope_factor));
  if (!(model->rope_factor > 0)) return corrupt(where + ": factor must be positive");
  model->rope_scaling = RopeScaling::kLinear;
  if (type == "linear") return {};

  model->rope_scaling = RopeScaling::kLlama3;
  model->rope_low_freq_factor = 0;
  model->rope_high_freq_factor = 0;
  model->rope_original_max_positions = model->max_positions;
  NWC_TRY(get_field(*scaling, "low_freq_factor", &model->rope_low_freq_factor));
  NWC_TRY(get_field(*scaling, "high_freq_factor", &model->rope_high_freq_factor));
  NWC_TRY(get_field(*scaling, "original_max_position_embeddings", &model->rope_original_max_positions));
  // Outside of the object it counts more, as in transformers.
  NWC_TRY(get_field(config, "original_max_position_embeddings", &model->rope_original_max_positions));
  if (!(model->rope_low_freq_factor > 0) || model->rope_original_max_positions == 0 ||
      !(model->rope_high_freq_factor > model->rope_low_freq_factor)) {
    return corrupt(where +
                   ": llama3 needs original_max_position_embeddings and 0 < low_freq_factor < high_freq_factor");
  }
  return {};
}

bool same_rope(const ModelRecord& a, const ModelRecord& b) {
  const auto fields = [](const ModelRecord& m) {
    return std::tie(m.rope_theta, m.rope_scaling, m.rope_factor, m.rope_low_freq_factor, m.rope_high_freq_factor,
                    m.rope_original_max_positions);
  };
  return fields(a) == fields(b);
}

Status read_rope(const Json& config, ModelRecord* model) {
  float rotary_fraction = 1;
  NWC_TRY(get_field(config, "partial_rotary_factor", &rotary_fraction));
  if (rotary_fraction != 1)
    return unsupported("\"partial_rotary_factor\" is not 1: rotary positions on a part of a head");
  model->rope_theta = 10000;
  NWC_TRY(get_field(config, "rope_theta", &model->rope_theta));
  ModelRecord other = *model;
  NWC_TRY(read_rope_scaling(config, "rope_parameters", &other));
  NWC_TRY(read_rope_scaling(config, "rope_scaling", model));
  if (find_field(config, "rope_scaling") == nullptr) {
    *model = other;
  } else if (find_field(config, "rope_parameters") != nullptr && !same_rope(*model, other)) {
    return unsupported("\"rope_scaling\" and \"rope_parameters\" contradict each other");
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
  ModelRecord& model = result->model;
  NWC_ASSIGN_OR_RETURN(const Architecture architecture, find_architecture(config));
  NWC_TRY(require_sizes(config, architecture, &model));
  std::vector<std::string> unknown;
  NWC_TRY(check_config_keys(config, &unknown));
  NWC_TRY(check_quantization(config));
  NWC_TRY(check_window(config, architecture, model.max_positions));
  model.rms_norm_eps = 1e-6f;
  NWC_TRY(get_field(config, "rms_norm_eps", &model.rms_norm_eps));
  NWC_TRY(read_rope(config, &model));
  NWC_TRY(get_field(config, "tie_word_embeddings", &model.tied_embeddings));
  if (!unknown.empty()) {
    result->notes.push_back({NoteKind::kGuessed, "config",
                             "config.json: unknown keys are taken to change nothing: " + short_json(Json(unknown))});
  }
  read_bos_id(config, result);
  add_eos_ids(config, "config.json", result);
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
