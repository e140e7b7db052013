#include "trainer/llm/model_graph.h"

#include <algorithm>

#include "trainer/data/source_layout.h"

namespace nwc {

Result<ModelGraph> ModelGraph::open(const ModelSource& source, uint32_t context) {
  if (!source.model()) return unsupported("the features of a model need its description");
  const ModelRecord& model = *source.model();
  NWC_TRY(validate(model));
  if (context == 0 || context > model.max_positions)
    return invalid_argument("sequences must have 1 to " + std::to_string(model.max_positions) + " tokens, not " +
                            std::to_string(context));
  NWC_ASSIGN_OR_RETURN(ModelLayout layout, resolve_source_layout(model, source.tensors()));
  return ModelGraph(source, std::move(layout), context);
}

ModelGraph::ModelGraph(const ModelSource& source, ModelLayout layout, uint32_t context)
    : source_(&source), layout_(std::move(layout)), context_(context) {
  for (size_t kind = 0; kind < layout_.model.blocks.size(); ++kind) {
    const auto of_kind = std::find_if(layout_.layers.begin(), layout_.layers.end(),
                                      [&](const LayerLayout& l) { return l.kind == kind; });
    // A kind that no layer is of has a graph that nobody asks for.
    const size_t layer = of_kind == layout_.layers.end() ? 0 : static_cast<size_t>(of_kind - layout_.layers.begin());
    kinds_.emplace_back(layout_, static_cast<uint32_t>(layer), context);
  }
}

/// The source checks that the tensor is small enough to be allocated.
Result<RowMatrix<float>> ModelGraph::load_matrix(size_t tensor, Eigen::Index rows, Eigen::Index cols) const {
  NWC_ASSIGN_OR_RETURN(const std::vector<float> values, source_->read_f32(tensor));
  return RowMatrix<float>(ConstMatrixMap<float>(values.data(), rows, cols));
}

Status ModelGraph::load_vector(const VectorPlace& place, bool in_use, float* out) const {
  NWC_ASSIGN_OR_RETURN(const std::vector<float> values, source_->read_f32(place.tensor));
  for (size_t i = 0; i < values.size(); ++i) out[i] = values[i] + (in_use && place.one_plus ? 1.0f : 0.0f);
  return {};
}

Result<RowMatrix<float>> ModelGraph::load_embedding() const {
  return load_matrix(layout_.embedding, model().vocab_size, model().hidden_size);
}

Result<RowMatrix<float>> ModelGraph::load_positions() const {
  if (!has_positions()) return RowMatrix<float>();
  return load_matrix(layout_.positions, model().ends.position_rows, model().hidden_size);
}

/// Of size 0 if the model has none at that place.
Result<RowVector<float>> ModelGraph::load_end_vector(uint32_t at) const {
  RowVector<float> out;
  const auto place = std::find_if(layout_.vectors.begin(), layout_.vectors.end(),
                                  [&](const VectorPlace& v) { return at != kNoVector && v.at == at; });
  if (place == layout_.vectors.end()) return out;
  out.resize(place->size);
  NWC_TRY(load_vector(*place, true, out.data()));
  return out;
}

Result<HeadWeights<float>> ModelGraph::load_norm(uint32_t gain_at, uint32_t bias_at) const {
  const BlockSpec& first = model().blocks.front();
  HeadWeights<float> out;
  out.norm = first.norm;
  out.epsilon = first.norm_eps;
  NWC_ASSIGN_OR_RETURN(out.gain, load_end_vector(gain_at));
  NWC_ASSIGN_OR_RETURN(out.norm_bias, load_end_vector(bias_at));
  return out;
}

Result<HeadWeights<float>> ModelGraph::load_embedding_norm() const {
  return load_norm(layout_.embedding_norm_at, layout_.embedding_norm_bias_at);
}

Result<HeadWeights<float>> ModelGraph::load_final_norm() const {
  return load_norm(layout_.final_norm_at, layout_.final_norm_bias_at);
}

Result<RowVector<float>> ModelGraph::load_token_type() const {
  NWC_ASSIGN_OR_RETURN(const RowVector<float> types, load_end_vector(layout_.token_types_at));
  return RowVector<float>(types.head(types.size() == 0 ? 0 : Eigen::Index{model().hidden_size}));
}

/// Of size 0 if the model has no such part.
Status ModelGraph::load_end(Role role, RowVector<float>* out) const {
  const auto place =
      std::find_if(layout_.ends.begin(), layout_.ends.end(), [&](const VectorPlace& v) { return v.role == role; });
  if (place == layout_.ends.end()) return {};
  out->resize(place->size);
  return load_vector(*place, true, out->data());
}

Status ModelGraph::load_end(Role role, RowMatrix<float>* out) const {
  RowVector<float> values;
  NWC_TRY(load_end(role, &values));
  if (values.size() == 0) return {};
  const Eigen::Index inner = model().blocks.front().intermediate_size, hidden = model().hidden_size;
  const Eigen::Index cols = role == Role::kPoolDown ? inner : hidden;
  *out = ConstMatrixMap<float>(values.data(), values.size() / cols, cols);
  return {};
}

Result<PoolingWeights<float>> ModelGraph::load_pooling() const {
  PoolingWeights<float> w;
  w.spec = model().ends.encoder;
  w.block = model().blocks.front();
  w.eos_ids = model().eos_ids;
  for (const auto& [role, out] : {std::pair{Role::kFinalNorm, &w.norm_gain},
                                  {Role::kFinalNormBias, &w.norm_bias},
                                  {Role::kPoolerBias, &w.pooler_bias},
                                  {Role::kPoolProbe, &w.probe},
                                  {Role::kPoolQkvBias, &w.qkv_bias},
                                  {Role::kPoolOutputBias, &w.output_bias},
                                  {Role::kPoolNorm, &w.pool_norm_gain},
                                  {Role::kPoolNormBias, &w.pool_norm_bias},
                                  {Role::kPoolUpBias, &w.up_bias},
                                  {Role::kPoolDownBias, &w.down_bias}})
    NWC_TRY(load_end(role, out));
  for (const auto& [role, out] : {std::pair{Role::kPooler, &w.pooler},
                                  {Role::kProjection, &w.projection},
                                  {Role::kPoolQkv, &w.qkv},
                                  {Role::kPoolOutput, &w.output},
                                  {Role::kPoolUp, &w.up},
                                  {Role::kPoolDown, &w.down}})
    NWC_TRY(load_end(role, out));
  return w;
}

Result<HeadWeights<float>> ModelGraph::load_head() const {
  NWC_ASSIGN_OR_RETURN(HeadWeights<float> head, load_final_norm());
  NWC_ASSIGN_OR_RETURN(head.bias, load_end_vector(layout_.head_bias_at));
  head.logit_scale = model().ends.logit_scale;
  head.logit_softcap = model().ends.logit_softcap;
  NWC_ASSIGN_OR_RETURN(head.matrix, load_matrix(layout_.head, model().vocab_size, model().hidden_size));
  return head;
}

Result<LayerWeights<float>> ModelGraph::load_layer(uint32_t l) const {
  const LayerGraph& graph = layer(l);
  LayerWeights<float> weights;
  for (size_t m = 0; m < graph.matrices().size(); ++m) {
    const LayerMatrix& matrix = graph.matrices()[m];
    NWC_ASSIGN_OR_RETURN(RowMatrix<float> values, load_matrix(matrix_tensor(l, m), matrix.rows, matrix.cols));
    weights.matrices.push_back(std::move(values));
  }
  weights.vectors.resize(graph.vector_elements());
  for (size_t v = 0; v < graph.vectors().size(); ++v) {
    const VectorPlace& place = layout_.vectors[layout_.layers[l].first_vector + v];
    NWC_TRY(load_vector(place, false, weights.vectors.data() + graph.vectors()[v].at));
  }
  return weights;
}

}  // namespace nwc
