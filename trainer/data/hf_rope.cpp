#include "trainer/data/hf_rope.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/model_kinds.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

constexpr std::pair<const char*, RopeScaling> kTypes[] = {
    {"default", RopeScaling::kNone},    {"linear", RopeScaling::kLinear}, {"llama3", RopeScaling::kLlama3},
    {"yarn", RopeScaling::kYarn},       {"longrope", RopeScaling::kLong}, {"su", RopeScaling::kLong},
    {"dynamic", RopeScaling::kDynamic},
};

/// Keys of a rope object that read_object reads, or that change nothing.
constexpr std::string_view kKnown[] = {"type",
                                       "rope_type",
                                       "rope_theta",
                                       "partial_rotary_factor",
                                       "factor",
                                       "low_freq_factor",
                                       "high_freq_factor",
                                       "original_max_position_embeddings",
                                       "max_position_embeddings",
                                       "beta_fast",
                                       "beta_slow",
                                       "mscale",
                                       "mscale_all_dim",
                                       "attention_factor",
                                       "truncate",
                                       "short_factor",
                                       "long_factor",
                                       "llama_4_scaling_beta"};

Status read_factors(const Json& object, const char* key, std::vector<float>* out) {
  const Json* list = find_field(object, key);
  if (list == nullptr || !list->is_array() || list->size() > 1024)
    return corrupt(std::string("\"") + key + "\" must be a list of numbers");
  out->clear();
  for (const Json& item : *list) {
    if (!item.is_number()) return corrupt(std::string("\"") + key + "\" must be a list of numbers");
    out->push_back(item.get<float>());
  }
  return {};
}

/// What rotated queries and keys are multiplied by, unless the file says it.
Status read_attention_factor(const Json& object, const ModelRecord& model, RopeSpec* rope) {
  double factor = static_cast<double>(rope->factor);
  double value = 1;
  if (rope->scaling == RopeScaling::kYarn) {
    float mscale = 0, all = 0;
    NWC_TRY(get_field(object, "mscale", &mscale));
    NWC_TRY(get_field(object, "mscale_all_dim", &all));
    value = mscale != 0 && all != 0
                ? yarn_scale(factor, static_cast<double>(mscale)) / yarn_scale(factor, static_cast<double>(all))
                : yarn_scale(factor);
  } else {
    if (find_field(object, "factor") == nullptr)
      factor = static_cast<double>(model.max_positions) / rope->original_max_positions;
    if (factor > 1)
      value = std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(rope->original_max_positions)));
  }
  rope->attention_factor = static_cast<float>(value);
  return get_field(object, "attention_factor", &rope->attention_factor);
}

Status read_object(ConfigReader& config, const Json& object, const std::string& where, ModelRecord* model,
                   BlockSpec* block) {
  if (!object.is_object()) return corrupt(where + " must be an object");
  std::string type = "default";
  NWC_TRY(get_field(object, "type", &type));
  NWC_TRY(get_field(object, "rope_type", &type));
  const auto* known =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](const auto& t) { return type == t.first; });
  if (known == std::end(kTypes)) {
    return unsupported(where + " has the type \"" + type +
                       "\"; the engine runs default, linear, llama3, yarn, longrope and dynamic");
  }
  for (const auto& [key, value] : object.items()) {
    if (value.is_null() || std::find(std::begin(kKnown), std::end(kKnown), key) != std::end(kKnown)) continue;
    return unsupported(where + " has \"" + key + "\": " + short_json(value) + ", which is unknown with the type " +
                       type);
  }
  RopeSpec& rope = block->rope;
  NWC_TRY(get_field(object, "rope_theta", &rope.theta));
  rope.scaling = known->second;
  if (rope.scaling == RopeScaling::kNone) return {};

  rope.original_max_positions = model->max_positions;
  const bool named = find_field(object, "original_max_position_embeddings") != nullptr ||
                     config.find("original_max_position_embeddings") != nullptr;
  NWC_TRY(get_field(object, "original_max_position_embeddings", &rope.original_max_positions));
  // Outside of the object it counts more, as in transformers.
  NWC_TRY(config.get("original_max_position_embeddings", &rope.original_max_positions));
  if (rope.original_max_positions == 0) return corrupt(where + ": original_max_position_embeddings must be positive");
  if (rope.scaling != RopeScaling::kLong) {
    rope.factor = rope.scaling == RopeScaling::kYarn && named
                      ? static_cast<float>(model->max_positions) / static_cast<float>(rope.original_max_positions)
                      : 0.0f;
    NWC_TRY(get_field(object, "factor", &rope.factor));
    if (!(rope.factor > 0)) return corrupt(where + ": factor must be positive");
  }
  switch (rope.scaling) {
    case RopeScaling::kLlama3:
      rope.low_freq_factor = rope.high_freq_factor = 0;
      NWC_TRY(get_field(object, "low_freq_factor", &rope.low_freq_factor));
      NWC_TRY(get_field(object, "high_freq_factor", &rope.high_freq_factor));
      if (!(rope.low_freq_factor > 0) || !(rope.high_freq_factor > rope.low_freq_factor)) {
        return corrupt(where +
                       ": llama3 needs original_max_position_embeddings and 0 < low_freq_factor < high_freq_factor");
      }
      return {};
    case RopeScaling::kYarn:
      NWC_TRY(get_field(object, "beta_fast", &rope.beta_fast));
      NWC_TRY(get_field(object, "beta_slow", &rope.beta_slow));
      NWC_TRY(get_field(object, "truncate", &rope.truncate));
      if (const Json* beta = find_field(object, "llama_4_scaling_beta"); beta != nullptr) {
        NWC_TRY(get_field(object, "llama_4_scaling_beta", &block->temperature_beta));
        block->temperature_positions = rope.original_max_positions;
      }
      return read_attention_factor(object, *model, &rope);
    case RopeScaling::kLong:
      NWC_TRY(read_factors(object, "short_factor", &rope.short_factors).with_context(where));
      NWC_TRY(read_factors(object, "long_factor", &rope.long_factors).with_context(where));
      return read_attention_factor(object, *model, &rope);
    case RopeScaling::kDynamic: {
      const double reach = static_cast<double>(rope.factor) * rope.original_max_positions;
      model->max_positions = std::max(model->max_positions, static_cast<uint32_t>(std::clamp(reach, 1.0, 16777216.0)));
      return {};
    }
    case RopeScaling::kLinear: rope.original_max_positions = 0; return {};
    case RopeScaling::kNone: return {};
  }
  return {};
}

}  // namespace

Status read_rope(ConfigReader& config, const char* layer_type, ModelRecord* model, BlockSpec* block) {
  RopeSpec& rope = block->rope;
  if (rope.theta == 0) rope.theta = 10000;
  NWC_TRY(config.get("rope_theta", &rope.theta));
  float share = 1;
  NWC_TRY(config.get("partial_rotary_factor", &share));
  const Json* parameters = config.find("rope_parameters");
  const Json* scaling = config.find("rope_scaling");
  std::string where = "\"rope_parameters\"";
  if (parameters != nullptr && parameters->is_object() && parameters->contains(layer_type)) {
    where += std::string(" \"") + layer_type + "\"";
    parameters = &(*parameters)[layer_type];
  }
  if (parameters != nullptr) NWC_TRY(get_field(*parameters, "partial_rotary_factor", &share));
  BlockSpec other = *block;
  if (parameters != nullptr) NWC_TRY(read_object(config, *parameters, where, model, &other));
  if (scaling != nullptr) {
    NWC_TRY(read_object(config, *scaling, "\"rope_scaling\"", model, block));
    if (parameters != nullptr && !(*block == other))
      return unsupported("\"rope_scaling\" and \"rope_parameters\" contradict each other");
  } else {
    *block = other;
  }
  if (!(share > 0) || share > 1)
    return corrupt("\"partial_rotary_factor\" is " + std::to_string(share) + ", it must be above 0 and at most 1");
  if (share != 1) block->rope.dims = static_cast<uint32_t>(static_cast<float>(block->head_dim) * share);
  return {};
}

}  // namespace nwc
