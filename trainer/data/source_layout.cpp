#include "trainer/data/source_layout.h"

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

}  // namespace nwc
