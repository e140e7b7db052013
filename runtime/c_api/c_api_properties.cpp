// What a file says of its network and tokenizer, by key: nwc_model_get_u64 and its siblings.
#include "runtime/base/str_cat.h"
#include "runtime/c_api/handles.h"

namespace nwc::c_api {
namespace {

const char* rope_scaling_name(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone: return "none";
    case RopeScaling::kLinear: return "linear";
    case RopeScaling::kLlama3: return "llama3";
    case RopeScaling::kYarn: return "yarn";
    case RopeScaling::kLong: return "longrope";
    case RopeScaling::kDynamic: return "dynamic";
  }
  return "unknown";
}

class List {
 public:
  void add(std::string key, uint64_t value) { list_.push_back({std::move(key), NWC_VALUE_U64, value, 0, nullptr}); }
  void add(std::string key, float value) {
    list_.push_back({std::move(key), NWC_VALUE_F64, 0, static_cast<double>(value), nullptr});
  }
  void add(std::string key, const char* value) { list_.push_back({std::move(key), NWC_VALUE_STRING, 0, 0, value}); }
  std::vector<Property> take() { return std::move(list_); }

 private:
  std::vector<Property> list_;
};

void describe(const ModelRecord& model, List* list) {
  list->add("architecture", "llama");
  list->add("vocab_size", uint64_t{model.vocab_size});
  list->add("hidden_size", uint64_t{model.hidden_size});
  list->add("intermediate_size", uint64_t{model.block().intermediate_size});
  list->add("num_layers", uint64_t{model.num_layers});
  list->add("num_heads", uint64_t{model.block().num_heads});
  list->add("num_kv_heads", uint64_t{model.block().num_kv_heads});
  list->add("head_dim", uint64_t{model.block().head_dim});
  list->add("max_positions", uint64_t{model.max_positions});
  list->add("tied_embeddings", uint64_t{model.tied_embeddings});
  list->add("rms_norm_eps", model.block().norm_eps);
  list->add("rope_theta", model.block().rope.theta);
  list->add("rope_scaling", rope_scaling_name(model.block().rope.scaling));
  if (model.block().rope.scaling != RopeScaling::kNone) list->add("rope_factor", model.block().rope.factor);
  list->add("num_eos_ids", uint64_t{model.eos_ids.size()});
  for (size_t i = 0; i < model.eos_ids.size(); ++i)
    list->add(std::string(str_cat("eos_id.", i)), uint64_t{model.eos_ids[i]});
}

void describe(const TokenizerRecord& tokenizer, List* list) {
  list->add("tokenizer", tokenizer.kind == TokenizerKind::kSentencePieceBpe ? "SentencePiece BPE" : "byte-level BPE");
  list->add("tokenizer.vocab_size", uint64_t{tokenizer.tokens.size()});
  if (tokenizer.bos_id != UINT32_MAX) list->add("bos_id", uint64_t{tokenizer.bos_id});
}

void describe(const ChatRecord& chat, List* list) {
  list->add("chat_template", chat.jinja.c_str());
  if (!chat.format) return;
  list->add("chat_format", chat.format->name.c_str());
  if (chat.format->default_system) list->add("chat_default_system", chat.format->default_system->c_str());
  list->add("num_chat_stops", uint64_t{chat.format->stop.size()});
  for (size_t i = 0; i < chat.format->stop.size(); ++i)
    list->add(std::string(str_cat("chat_stop.", i)), chat.format->stop[i].c_str());
}

const char* type_name(nwc_value_type type) {
  return type == NWC_VALUE_U64 ? "u64" : type == NWC_VALUE_F64 ? "f64" : "string";
}

/// use(property) writes the value; allowed says whether it may.
template <typename Allowed, typename Use>
nwc_status get(const nwc_model* model, const char* key, const void* out_value, Allowed&& allowed, Use&& use) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (key == nullptr) return null_argument("key");
    if (out_value == nullptr) return null_argument("out_value");
    for (const Property& property : m.state->properties()) {
      if (property.key != key) continue;
      if (!allowed(property.type))
        return invalid_argument(
            str_cat("key '", key, "': its value is a ", type_name(property.type), ", ask for that"));
      use(property);
      return {};
    }
    return Status(StatusCode::kNotFound, str_cat("key '", key, "': the model has no such value"));
  });
}

}  // namespace

std::vector<Property> describe_properties(const NwcFile& file) {
  List list;
  if (file.model()) describe(*file.model(), &list);
  if (file.tokenizer()) describe(*file.tokenizer(), &list);
  if (file.chat()) describe(*file.chat(), &list);
  return list.take();
}

}  // namespace nwc::c_api

using namespace nwc;
using namespace nwc::c_api;

nwc_status nwc_model_get_u64(const nwc_model* model, const char* key, uint64_t* out_value) {
  return get(
      model, key, out_value, [](nwc_value_type type) { return type == NWC_VALUE_U64; },
      [&](const Property& property) { *out_value = property.u64; });
}

nwc_status nwc_model_get_f64(const nwc_model* model, const char* key, double* out_value) {
  return get(
      model, key, out_value, [](nwc_value_type type) { return type != NWC_VALUE_STRING; },
      [&](const Property& property) {
        *out_value = property.type == NWC_VALUE_U64 ? static_cast<double>(property.u64) : property.f64;
      });
}

nwc_status nwc_model_get_string(const nwc_model* model, const char* key, const char** out_value) {
  return get(
      model, key, out_value, [](nwc_value_type type) { return type == NWC_VALUE_STRING; },
      [&](const Property& property) { *out_value = property.string; });
}

nwc_status nwc_model_key_at(const nwc_model* model, uint32_t index, const char** out_key, nwc_value_type* out_type) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (out_key == nullptr) return null_argument("out_key");
    if (out_type == nullptr) return null_argument("out_type");
    const std::vector<Property>& properties = m.state->properties();
    if (index >= properties.size())
      return Status(StatusCode::kNotFound, str_cat("key ", index, ": the model has ", properties.size()));
    *out_key = properties[index].key.c_str();
    *out_type = properties[index].type;
    return {};
  });
}
