#include "trainer/data/source_layout.h"

#include <charconv>
#include <string_view>
#include <unordered_map>

namespace nwc {

Result<ModelLayout> resolve_source_layout(const ModelRecord& model, const std::vector<SourceTensor>& tensors) {
  std::unordered_map<std::string_view, size_t> by_name;
  for (size_t i = 0; i < tensors.size(); ++i) by_name.emplace(tensors[i].name, i);
  TensorLookup lookup;
  lookup.find = [&](const std::string& name) -> std::optional<TensorLookup::Found> {
    const auto it = by_name.find(name);
    if (it == by_name.end()) return std::nullopt;
    const SourceTensor& t = tensors[it->second];
    // What scales 8-bit floats stands elsewhere in the checkpoint, and nobody has read it.
    const bool usable = dtype_is_float(t.dtype) && dtype_size(t.dtype) >= 2;
    return TensorLookup::Found{it->second, &t.shape, usable, t.stored_type};
  };
  lookup.wrong_shape = StatusCode::kUnsupported;  // of another model than the one that is described: still weights
  return resolve_layout(model, lookup);
}

std::optional<SourceNote> note_of_further_layers(const ModelRecord& model, const std::vector<SourceTensor>& tensors,
                                                 const std::string& description) {
  constexpr std::string_view kNumber = "{}";
  uint64_t layers = model.num_layers;
  std::string example;
  for (const TensorName& name : model.names.empty() ? llama_names() : model.names) {
    const std::string_view pattern = name.pattern;
    const size_t at = pattern.find(kNumber);
    if (at == pattern.npos) continue;
    const std::string_view before = pattern.substr(0, at), after = pattern.substr(at + kNumber.size());
    for (const SourceTensor& tensor : tensors) {
      std::string_view text = tensor.name;
      if (!text.starts_with(before) || !text.ends_with(after) || text.size() <= before.size() + after.size()) continue;
      text = text.substr(before.size(), text.size() - before.size() - after.size());
      uint32_t layer = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
      if (error != std::errc() || end != text.data() + text.size() || layer < layers) continue;
      layers = uint64_t{layer} + 1;
      example = tensor.name;
    }
  }
  if (example.empty()) return std::nullopt;
  return SourceNote{NoteKind::kRepaired, "layers",
                    description + " says " + std::to_string(model.num_layers) + " layers, but the weights have " +
                        std::to_string(layers) + " (" + example +
                        "); all are coded, and sessions run only those that " + description + " says"};
}

}  // namespace nwc
