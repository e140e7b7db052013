#include "trainer/data/gguf_model.h"

#include <algorithm>
#include <tuple>

#include "trainer/data/gguf_experts.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

// One number for all layers; GGUF allows an array with one for each.
Status get_uniform(const GgufFile& file, const std::string& key, uint32_t* out) {
  if (file.is_array(key)) return unsupported("metadata key \"" + key + "\": layers that differ from each other");
  return file.get(key, out);
}

Status require(uint32_t value, const std::string& key) {
  return value != 0 ? Status() : corrupt("metadata key \"" + key + "\" is missing or zero");
}

}  // namespace

const GgufTensor* find_gguf_tensor(const GgufFile& file, const std::string& name) {
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

Status read_gguf_sizes(const GgufFile& file, const std::string& prefix, ModelRecord* model) {
  const std::pair<const char*, uint32_t*> sizes[] = {
      {"block_count", &model->num_layers},
      {"context_length", &model->max_positions},
      {"embedding_length", &model->hidden_size},
      {"feed_forward_length", &model->block().intermediate_size},
      {"attention.head_count", &model->block().num_heads},
  };
  for (const auto& [key, out] : sizes) {
    NWC_TRY(get_uniform(file, prefix + key, out));
    NWC_TRY(require(*out, prefix + key));
  }
  // Before lists of layers are made.
  if (model->num_layers > kMaxModelLayers) {
    return unsupported("metadata key \"" + prefix + "block_count\" is " + std::to_string(model->num_layers) +
                       ", the limit is " + std::to_string(kMaxModelLayers));
  }
  model->block().num_kv_heads = model->block().num_heads;
  NWC_TRY(get_uniform(file, prefix + "attention.head_count_kv", &model->block().num_kv_heads));
  model->block().head_dim = model->hidden_size / model->block().num_heads;
  NWC_TRY(file.get(prefix + "attention.key_length", &model->block().head_dim));

  const GgufTensor* embedding = find_gguf_tensor(file, "token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return corrupt("tensor \"token_embd.weight\" is missing or not a matrix");
  }
  if (embedding->shape[0] > UINT32_MAX) return corrupt("tensor \"token_embd.weight\" has too many rows");
  model->vocab_size = static_cast<uint32_t>(embedding->shape[0]);
  model->tied_embeddings = find_gguf_tensor(file, "output.weight") == nullptr;
  return {};
}

Status refuse_gguf_features(const GgufFile& file, const std::string& prefix, const ModelRecord& model,
                            GgufExperts expected) {
  uint32_t experts = 0, value_length = model.block().head_dim;
  NWC_TRY(file.get(prefix + "expert_count", &experts));
  NWC_TRY(file.get(prefix + "attention.value_length", &value_length));
  const std::string key = "metadata key \"" + prefix + "expert_count\"";
  if (experts != 0 && expected == GgufExperts::kNever)
    return unsupported(key + ": a mixture of experts of this architecture");
  if (experts == 0 && expected == GgufExperts::kAlways) return corrupt(key + " is missing or zero");
  if (value_length != model.block().head_dim) return unsupported("keys and values of different lengths");
  return {};
}

// The end of a text, of a turn, of a message.
Status read_gguf_eos(const GgufFile& file, ModelRecord* model) {
  for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    uint32_t id = UINT32_MAX;
    NWC_TRY(file.get(std::string("tokenizer.ggml.") + key, &id));
    const bool known = std::find(model->eos_ids.begin(), model->eos_ids.end(), id) != model->eos_ids.end();
    if (id < model->vocab_size && !known) model->eos_ids.push_back(id);
  }
  return {};
}

namespace {

struct NamePair {
  std::string gguf, hugging_face;
};

// What stands in a name between the layer, if it is one of a layer, and ".weight" or ".bias".
std::string module_of(const std::string& pattern) {
  const size_t layer = pattern.find("{}."), begin = layer == pattern.npos ? 0 : layer + 3;
  return pattern.substr(begin, pattern.rfind('.') - begin);
}

// The names of Llama's tensors in GGUF and in Hugging Face's form: whole ones, and modules of a layer.
struct NamePairs {
  std::vector<NamePair> whole, of_layer;
};
void add_pairs(const std::vector<TensorName>& gguf, const std::vector<TensorName>& names, NamePairs* to) {
  for (const TensorName& name : names) {
    if (!name.pattern.ends_with(".weight") || of_expert(name.role)) continue;
    const auto same = std::find_if(gguf.begin(), gguf.end(), [&](const auto& g) { return g.role == name.role; });
    if (!of_layer(name.role)) {
      to->whole.push_back({same->pattern, name.pattern});
    } else {
      to->of_layer.push_back({module_of(same->pattern), module_of(name.pattern)});
    }
  }
}
const NamePairs& llama_name_pairs() {
  static const NamePairs* const pairs = [] {
    auto* made = new NamePairs;
    add_pairs(gguf_names(), llama_names(), made);
    add_pairs(gguf_expert_names(), renamed_expert_names(), made);
    return made;
  }();
  return *pairs;
}

constexpr std::string_view kGgufLayers = "blk.";
constexpr std::string_view kHuggingFaceLayers = "model.layers.";

// "<from>3.<part>.weight" -> "<to>3.<other part>.weight"; unknown names come back as they are.
template <typename Order>
std::string translate_in_layer(const std::string& name, std::string_view from, std::string_view to, Order order) {
  if (name.compare(0, from.size(), from) != 0) return name;
  const size_t layer_end = name.find('.', from.size());
  const size_t part_end = name.rfind('.');
  if (layer_end == name.npos || part_end <= layer_end) return name;
  const std::string layer = name.substr(from.size(), layer_end - from.size());
  if (layer.empty() || layer.find_first_not_of("0123456789") != layer.npos) return name;
  const std::string_view part = std::string_view(name).substr(layer_end + 1, part_end - layer_end - 1);
  for (const NamePair& pair : llama_name_pairs().of_layer) {
    const auto [known, other] = order(pair);
    if (part == known) return std::string(to) + layer + "." + other + name.substr(part_end);
  }
  return name;
}

}  // namespace

uint64_t gguf_rotary_row(uint64_t row, uint32_t head_dim) {
  const uint64_t half = head_dim / 2;
  const uint64_t in_head = row % head_dim;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

bool is_rotary_projection(const std::string& name) {
  const std::string_view module = std::string_view(name).substr(0, name.rfind('.'));
  return module.ends_with(".self_attn.q_proj") || module.ends_with(".self_attn.k_proj");
}

std::string translate_gguf_name(const std::string& name) {
  for (const auto& [gguf, hugging_face] : llama_name_pairs().whole) {
    if (name == gguf) return hugging_face;
  }
  return translate_in_layer(name, kGgufLayers, kHuggingFaceLayers,
                            [](const NamePair& pair) { return std::tie(pair.gguf, pair.hugging_face); });
}

std::optional<std::string> gguf_name_of(const std::string& name) {
  for (const auto& [gguf, hugging_face] : llama_name_pairs().whole) {
    if (name == hugging_face) return gguf;
  }
  std::string translated = translate_in_layer(name, kHuggingFaceLayers, kGgufLayers, [](const NamePair& pair) {
    return std::tie(pair.hugging_face, pair.gguf);
  });
  if (translated == name) return std::nullopt;
  return translated;
}

}  // namespace nwc
