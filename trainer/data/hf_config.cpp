#include "trainer/data/hf_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

// MistralConfig's default; a null in the file means none.
constexpr uint32_t kMistralSlidingWindow = 4096;

enum class Architecture { kLlama, kMistral };

Result<Architecture> find_architecture(const Json& config) {
  std::string name;
  if (const Json* list = find_field(config, "architectures"); list != nullptr && list->is_array() && !list->empty()) {
    if (!list->front().is_string()) return corrupt("field \"architectures\" must be a list of strings");
    name = list->front().get<std::string>();
  } else {
    std::string type;
    NWC_TRY(get_field(config, "model_type", &type));
    name = type == "llama" ? "LlamaForCausalLM" : type == "mistral" ? "MistralForCausalLM" : type;
  }
  if (name == "LlamaForCausalLM") return Architecture::kLlama;
  if (name == "MistralForCausalLM") return Architecture::kMistral;
  return unsupported("architecture \"" + name + "\" is not of the Llama family");
}

Status require_sizes(const Json& config, ModelRecord* model) {
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
  model->num_kv_heads = model->num_heads;
  NWC_TRY(get_field(config, "num_key_value_heads", &model->num_kv_heads));
  model->head_dim = model->hidden_size / model->num_heads;
  NWC_TRY(get_field(config, "head_dim", &model->head_dim));
  model->max_positions = 2048;
  return get_field(config, "max_position_embeddings", &model->max_positions);
}

Status refuse_options(const Json& config, Architecture architecture, uint32_t max_positions) {
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    bool bias = false;
    NWC_TRY(get_field(config, key, &bias));
    if (bias) return unsupported(std::string("field \"") + key + "\": layers with biases");
  }
  std::string activation = "silu";
  NWC_TRY(get_field(config, "hidden_act", &activation));
  if (activation != "silu") return unsupported("field \"hidden_act\": activation \"" + activation + "\", only silu");
  float rotary_fraction = 1;
  NWC_TRY(get_field(config, "partial_rotary_factor", &rotary_fraction));
  if (rotary_fraction != 1) return unsupported("field \"partial_rotary_factor\" other than 1");
  if (find_field(config, "quantization_config") != nullptr) {
    return unsupported("field \"quantization_config\": the weights are already quantized; use the original model");
  }
  if (architecture == Architecture::kMistral) {
    uint32_t window = config.contains("sliding_window") ? UINT32_MAX : kMistralSlidingWindow;
    NWC_TRY(get_field(config, "sliding_window", &window));
    if (window < max_positions) {
      return unsupported("field \"sliding_window\": attention over the last " + std::to_string(window) +
                         " positions only");
    }
  }
  return {};
}

// `scaling` is "rope_scaling", or the newer "rope_parameters", which has rope_theta too.
Status read_rope_scaling(const Json& scaling, ModelRecord* model) {
  if (!scaling.is_object()) return corrupt("field \"rope_scaling\" must be an object");
  std::string type = "default";
  NWC_TRY(get_field(scaling, "type", &type));
  NWC_TRY(get_field(scaling, "rope_type", &type));
  NWC_TRY(get_field(scaling, "rope_theta", &model->rope_theta));
  if (type == "default" || type == "none") return {};
  if (type != "linear" && type != "llama3") return unsupported("field \"rope_scaling\": type \"" + type + "\"");
  model->rope_factor = 0;
  NWC_TRY(get_field(scaling, "factor", &model->rope_factor));
  if (!(model->rope_factor > 0)) return corrupt("field \"rope_scaling\": factor must be positive");
  model->rope_scaling = RopeScaling::kLinear;
  if (type == "linear") return {};

  model->rope_scaling = RopeScaling::kLlama3;
  model->rope_low_freq_factor = 0;
  model->rope_high_freq_factor = 0;
  NWC_TRY(get_field(scaling, "low_freq_factor", &model->rope_low_freq_factor));
  NWC_TRY(get_field(scaling, "high_freq_factor", &model->rope_high_freq_factor));
  NWC_TRY(get_field(scaling, "original_max_position_embeddings", &model->rope_original_max_positions));
  if (!(model->rope_low_freq_factor > 0) || model->rope_original_max_positions == 0 ||
      !(model->rope_high_freq_factor > model->rope_low_freq_factor)) {
    return corrupt(
        "field \"rope_scaling\": llama3 needs original_max_position_embeddings and 0 < low_freq_factor < "
        "high_freq_factor");
  }
  return {};
}

Status read_rope(const Json& config, ModelRecord* model) {
  model->rope_theta = 10000;
  NWC_TRY(get_field(config, "rope_theta", &model->rope_theta));
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* scaling = find_field(config, key);
    if (scaling != nullptr) return read_rope_scaling(*scaling, model);
  }
  return {};
}

// An id, or a list of ids.
Status add_eos_ids(const Json& config, uint32_t vocab_size, std::vector<uint32_t>* ids) {
  const Json* field = find_field(config, "eos_token_id");
  if (field == nullptr) return {};
  const Json list = field->is_array() ? *field : Json::array({*field});
  for (const Json& item : list) {
    const std::optional<uint64_t> id = as_u64(item);
    if (!id || *id >= vocab_size) return corrupt("field \"eos_token_id\" must hold token ids below vocab_size");
    const auto value = static_cast<uint32_t>(*id);
    if (std::find(ids->begin(), ids->end(), value) == ids->end()) ids->push_back(value);
  }
  return {};
}

}  // namespace

Result<HfConfig> parse_hf_config(Bytes config_text, const Bytes* generation_config) {
  NWC_ASSIGN_OR_RETURN(const Json config, parse_json(config_text, "config.json"));
  if (!config.is_object()) return corrupt("config.json must hold an object");
  HfConfig result;
  ModelRecord& model = result.model;

  const auto read = [&]() -> Status {
    NWC_ASSIGN_OR_RETURN(const Architecture architecture, find_architecture(config));
    NWC_TRY(require_sizes(config, &model));
    NWC_TRY(refuse_options(config, architecture, model.max_positions));
    model.rms_norm_eps = 1e-6f;
    NWC_TRY(get_field(config, "rms_norm_eps", &model.rms_norm_eps));
    NWC_TRY(read_rope(config, &model));
    NWC_TRY(get_field(config, "tie_word_embeddings", &model.tied_embeddings));
    if (const Json* bos = find_field(config, "bos_token_id")) {
      const std::optional<uint64_t> id = as_u64(*bos);
      if (id && *id < model.vocab_size) result.bos_id = static_cast<uint32_t>(*id);
    }
    return add_eos_ids(config, model.vocab_size, &model.eos_ids);
  };
  NWC_TRY(read().with_context("config.json"));

  if (generation_config != nullptr) {
    NWC_ASSIGN_OR_RETURN(const Json generation, parse_json(*generation_config, "generation_config.json"));
    NWC_TRY(add_eos_ids(generation, model.vocab_size, &model.eos_ids).with_context("generation_config.json"));
  }
  NWC_TRY(validate(model).with_context("config.json"));
  return result;
}

}  // namespace nwc
