#include "trainer/data/gguf_listing.h"

#include <charconv>
#include <optional>
#include <string_view>

#include "runtime/format/constants.h"
#include "trainer/data/gguf_model.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

struct LayerName {
  uint32_t layer;
  std::string_view part;  ///< "ffn_gate_exps.weight"
};

std::optional<LayerName> parse_layer_name(std::string_view name) {
  constexpr std::string_view kLayers = "blk.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  LayerName parsed{};
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), parsed.layer);
  const size_t digits = static_cast<size_t>(end - name.data());
  if (error != std::errc() || digits == name.size() || name[digits] != '.') return std::nullopt;
  parsed.part = name.substr(digits + 1);
  return parsed;
}

class Lister {
 public:
  Lister(const GgufFile& file, const ModelRecord* model) : file_(file), model_(model) {
    translates_ = model != nullptr && model->tensor_name(Role::kEmbedding) == llama_names().front().pattern;
  }

  Result<std::vector<GgufListed>> list() {
    size_t pieces = 0;
    for (size_t i = 0; i < file_.tensors().size(); ++i) {
      const size_t before = out_.size();
      NWC_TRY(add(i));
      for (size_t n = before; n < out_.size(); ++n) pieces += out_[n].pieces.size();
      if (pieces > kMaxTensors) return limit_error("the experts' tensors are more than 1,048,576");
    }
    return std::move(out_);
  }

 private:
  Status add(size_t i) {
    const GgufTensor& stored = file_.tensors()[i];
    if (model_ != nullptr) {
      if (is_rope_factors(stored.name)) return {};
      const std::optional<LayerName> name = parse_layer_name(stored.name);
      if (name && name->layer < model_->num_layers && model_->block(name->layer).experts.num_experts != 0) {
        bool taken = false;
        NWC_TRY(add_of_mixture(i, *name, &taken));
        if (taken) return {};
      }
    }
    add_whole(i, translates_ ? translate_gguf_name(stored.name) : stored.name, stored.shape);
    return {};
  }

  void add_whole(size_t i, std::string name, std::vector<uint64_t> shape) {
    uint64_t count = 1;
    for (const uint64_t d : shape) count *= d;
    GgufListed listed{std::move(name), std::move(shape), {{i, 0, count}}, 0};
    if (model_ != nullptr && is_rotary_projection(listed.name)) listed.rotary_head_dim = model_->block().head_dim;
    out_.push_back(std::move(listed));
  }

  Status add_of_mixture(size_t i, const LayerName& name, bool* taken) {
    *taken = true;
    if (name.part == "ffn_gate_exps.weight") return split(i, name.layer, {Role::kExpertGate});
    if (name.part == "ffn_up_exps.weight") return split(i, name.layer, {Role::kExpertUp});
    if (name.part == "ffn_down_exps.weight") return split(i, name.layer, {Role::kExpertDown});
    if (name.part == "ffn_gate_up_exps.weight") return split(i, name.layer, {Role::kExpertGate, Role::kExpertUp});
    const bool biases = !model_->tensor_name(Role::kExpertGateUpBias).empty();
    if (name.part == "ffn_gate_exps.bias" && biases) return join_biases(i, name.layer);
    if (name.part == "ffn_up_exps.bias" && biases) return {};  // with gate's
    if (name.part.ends_with("_exps.scale"))
      return unsupported(quote_tensor(file_.tensors()[i].name) + ": experts' weights with scales of their own");
    const std::vector<uint64_t>& shape = file_.tensors()[i].shape;
    const std::string gate = model_->tensor_name(Role::kSharedGate, name.layer);
    *taken = name.part == "ffn_gate_inp_shexp.weight" && shape.size() == 1 && !gate.empty();
    if (*taken) add_whole(i, gate, {1, shape[0]});  // one row, that of a matrix
    return {};
  }

  Status wrong_experts(const GgufTensor& stored, uint32_t experts, const char* what) const {
    return unsupported(quote_tensor(stored.name) + " of shape " + shape_text(stored.shape) + " does not hold " + what +
                       " of " + std::to_string(experts) + " experts");
  }

  /// All experts of a layer, or of each the rows of several matrices.
  Status split(size_t i, uint32_t layer, std::initializer_list<Role> roles) {
    const GgufTensor& stored = file_.tensors()[i];
    const uint32_t experts = model_->block(layer).experts.num_experts;
    const std::vector<uint64_t>& shape = stored.shape;
    if (shape.size() != 3 || shape[0] != experts || shape[1] % roles.size() != 0)
      return wrong_experts(stored, experts, "the matrices");
    const std::vector<uint64_t> part = {shape[1] / roles.size(), shape[2]};
    const uint64_t count = part[0] * part[1];
    uint64_t first = 0;
    for (uint32_t e = 0; e < experts; ++e) {
      for (const Role role : roles) {
        out_.push_back({model_->tensor_name(role, layer, e), part, {{i, first, count}}, 0});
        first += count;
      }
    }
    return {};
  }

  /// Gate's and up's biases of an expert become one.
  Status join_biases(size_t gate, uint32_t layer) {
    const GgufTensor& stored = file_.tensors()[gate];
    const uint32_t experts = model_->block(layer).experts.num_experts;
    const std::string up_name = "blk." + std::to_string(layer) + ".ffn_up_exps.bias";
    size_t up = 0;
    while (up < file_.tensors().size() && file_.tensors()[up].name != up_name) ++up;
    if (up == file_.tensors().size())
      return corrupt(quote_tensor(up_name) + " is missing beside " + quote_tensor(stored.name));
    const GgufTensor& other = file_.tensors()[up];
    const std::vector<uint64_t>& shape = stored.shape;
    if (shape.size() != 2 || shape[0] != experts) return wrong_experts(stored, experts, "the biases");
    if (other.shape != shape || other.type->dtype != stored.type->dtype)
      return wrong_experts(other, experts, "biases like gate's");
    GgufListed listed{model_->tensor_name(Role::kExpertGateUpBias, layer), {shape[0], 2 * shape[1]}, {}, 0};
    for (uint64_t e = 0; e < experts; ++e) {
      listed.pieces.push_back({gate, e * shape[1], shape[1]});
      listed.pieces.push_back({up, e * shape[1], shape[1]});
    }
    out_.push_back(std::move(listed));
    return {};
  }

  const GgufFile& file_;
  const ModelRecord* model_;
  bool translates_ = false;
  std::vector<GgufListed> out_;
};

}  // namespace

Result<std::vector<GgufListed>> list_gguf_tensors(const GgufFile& file, const ModelRecord* model) {
  return Lister(file, model).list();
}

}  // namespace nwc
