#include "runtime/engine/file_layout.h"

namespace nwc {

Result<ModelLayout> resolve_file_layout(const NwcFile& file) {
  if (!file.model()) {
    return file.model_status().with_context("its tensors can be decoded, but there is no model to evaluate");
  }
  TensorLookup lookup;
  lookup.find = [&file](const std::string& name) -> std::optional<TensorLookup::Found> {
    const std::optional<size_t> index = file.find(name);
    if (!index) return std::nullopt;
    const TensorRecord& record = file.tensors()[*index];
    return TensorLookup::Found{*index, &record.shape, dtype_is_float(record.dtype), dtype_name(record.dtype)};
  };
  return resolve_layout(*file.model(), lookup);
}

std::vector<size_t> coded_matrices(const ModelLayout& layout, const NwcFile& file, uint32_t first_layer,
                                   bool with_head) {
  std::vector<size_t> tensors;
  const auto consider = [&](size_t tensor) {
    if (file.tensors()[tensor].storage == Storage::kCoded) tensors.push_back(tensor);
  };
  for (size_t l = first_layer; l < layout.layers.size(); ++l) {
    for (const PlacedMatrix& m : layout.layers[l].matrices) consider(m.tensor);
  }
  if (with_head && layout.has_head()) consider(layout.head);
  return tensors;
}

std::vector<size_t> all_tensors(const ModelLayout& layout) {
  std::vector<size_t> tensors;
  if (layout.has_embedding()) tensors.push_back(layout.embedding);
  if (layout.separate_head()) tensors.push_back(layout.head);
  if (layout.positions != kNoTensor) tensors.push_back(layout.positions);
  for (const LayerLayout& layer : layout.layers) {
    for (const PlacedMatrix& m : layer.matrices) tensors.push_back(m.tensor);
    for (const PlacedMatrix& m : layer.expert_matrices) tensors.push_back(m.tensor);
  }
  for (const VectorPlace& vector : layout.vectors) tensors.push_back(vector.tensor);
  for (const VectorPlace& end : layout.ends) tensors.push_back(end.tensor);
  return tensors;
}

}  // namespace nwc
