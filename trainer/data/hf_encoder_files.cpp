#include "trainer/data/hf_encoder_files.h"

#include <nlohmann/json.hpp>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/json_checked.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

Result<Json> load_json(const HfFolder& folder, const std::string& name) {
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> text, folder.load(name));
  size_t replaced = 0;
  return parse_python_json(text, name, &replaced);
}

bool is_true(const Json& config, const char* key) {
  const Json* value = find_field(config, key);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

/// N_Pooling/config.json: exactly one kind.
Status read_pooling(const HfFolder& folder, const std::string& name, EncoderSpec* e) {
  NWC_ASSIGN_OR_RETURN(const Json config, load_json(folder, name));
  std::string mode;  // newer files name it, older ones have a flag for each kind
  NWC_TRY(get_field(config, "pooling_mode", &mode).with_context(name));
  const bool mean = mode == "mean" || is_true(config, "pooling_mode_mean_tokens");
  const bool first = mode == "cls" || is_true(config, "pooling_mode_cls_token");
  bool other = !mode.empty() && !mean && !first;
  for (const char* key : {"pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
                          "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"})
    other = other || is_true(config, key);
  if (mean == first || other) return unsupported(name + ": asks for a pooling that the engine does not run");
  e->pooling = mean ? Pooling::kMean : Pooling::kFirst;
  e->pooler = false;
  return {};
}

/// modules.json of sentence-transformers: a Transformer, a Pooling, and perhaps a Normalize.
Status read_modules(const HfFolder& folder, EncoderSpec* e) {
  constexpr const char* kName = "modules.json";
  NWC_ASSIGN_OR_RETURN(const Json modules, load_json(folder, kName));
  if (!modules.is_array()) return corrupt(std::string(kName) + " must hold a list");
  for (const Json& module : modules) {
    std::string type, path;
    if (!module.is_object()) return corrupt(std::string(kName) + ": a module must be an object");
    NWC_TRY(get_field(module, "type", &type).with_context(kName));
    NWC_TRY(get_field(module, "path", &path).with_context(kName));
    const std::string kind = type.substr(type.rfind('.') + 1);
    if (kind == "Pooling") {
      if (path.find("..") != path.npos || path.starts_with('/'))
        return corrupt(std::string(kName) + ": the path \"" + path + "\" leaves the folder");
      NWC_TRY(read_pooling(folder, path.empty() ? "config.json" : path + "/config.json", e));
    } else if (kind == "Normalize") {
      e->normalized = true;
    } else if (kind != "Transformer") {
      return unsupported(std::string(kName) + ": a module " + short_json(Json(type)) +
                         ", which the engine does not run");
    }
  }
  return {};
}

/// sentence_bert_config.json: texts are cut to so many tokens.
Status read_sentence_length(const HfFolder& folder, ModelRecord* m) {
  constexpr const char* kName = "sentence_bert_config.json";
  NWC_ASSIGN_OR_RETURN(const Json config, load_json(folder, kName));
  uint32_t most = 0;
  NWC_TRY(get_field(config, "max_seq_length", &most).with_context(kName));
  if (most != 0) m->max_positions = std::min(m->max_positions, most);
  return {};
}

/// preprocessor_config.json: the side of the pictures that a model with fitted positions gets.
Status read_image_size(const HfFolder& folder, ModelRecord* m) {
  constexpr const char* kName = "preprocessor_config.json";
  EncoderSpec& e = m->ends.encoder;
  NWC_ASSIGN_OR_RETURN(const Json config, load_json(folder, kName));
  const Json* size = find_field(config, "crop_size");
  if (size == nullptr) return {};
  uint32_t height = 0, width = 0;
  if (const std::optional<uint64_t> side = as_u64(*size)) {
    height = width = static_cast<uint32_t>(std::min<uint64_t>(*side, UINT32_MAX));
  } else {
    NWC_TRY(get_field(*size, "height", &height).with_context(kName));
    NWC_TRY(get_field(*size, "width", &width).with_context(kName));
  }
  if (height < e.patch_size || width < e.patch_size || height > 1u << 14 || width > 1u << 14)
    return corrupt(std::string(kName) + ": \"crop_size\" is " + short_json(*size));
  e.image_height = height;
  e.image_width = width;
  m->max_positions = 1 + e.registers + e.grid_height() * e.grid_width();
  return {};
}

}  // namespace

Status settle_encoder(const HfFolder& folder, SafetensorsSource* source, ModelRecord* model) {
  if (!model->is_encoder()) return {};
  EncoderSpec& e = model->ends.encoder;
  e.pooler = source->find(model->tensor_name(Role::kPooler)).has_value();
  const std::optional<size_t> projection = source->find(model->tensor_name(Role::kProjection));
  e.projection = 0;
  if (projection && !source->tensors()[*projection].shape.empty())
    e.projection = static_cast<uint32_t>(std::min<uint64_t>(source->tensors()[*projection].shape.front(), UINT32_MAX));
  if (!e.of_images()) {
    if (folder.has("modules.json")) {
      NWC_TRY(read_modules(folder, &e));
    } else if (e.pooling == Pooling::kFirst) {
      source->add_note({NoteKind::kGuessed, "pooling",
                        std::string("there is no modules.json: the embedding is the first token's state") +
                            (e.pooler ? ", through the pooler" : "")});
    }
    if (folder.has("sentence_bert_config.json")) NWC_TRY(read_sentence_length(folder, model));
    return {};
  }
  if (e.position_fit != PositionFit::kExact && folder.has("preprocessor_config.json"))
    NWC_TRY(read_image_size(folder, model));
  return {};
}

}  // namespace nwc
