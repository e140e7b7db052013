#include "trainer/llm/layer_graph.h"

#include <algorithm>
#include <cmath>

#include "runtime/graph/rope.h"

namespace nwc {

LayerGraph::LayerGraph(const ModelLayout& layout, uint32_t layer, uint32_t context) : spec_(layout.block(layer)) {
  widths_.push_back(layout.model.hidden_size);
  const LayerLayout& at = layout.layers[layer];
  place_weights(layout, at);
  const Eigen::Index base = at.first_vector < at.end_vector ? layout.vectors[at.first_vector].at : 0;
  const std::span<const Step> steps = layout.layer_steps(layer);
  expand({steps.begin(), steps.end()}, at, base);
  compute_angles(context);
}

void LayerGraph::place_weights(const ModelLayout& layout, const LayerLayout& layer) {
  for (uint32_t l = 0; l < kNumLinears; ++l) {
    Eigen::Index row = 0;
    for (const PlacedMatrix& m : layer.linear(static_cast<Linear>(l))) {
      matrices_.push_back(
          {.role = m.role, .linear = static_cast<Linear>(l), .rows = m.rows, .cols = m.cols, .first_row = row});
      row += m.rows;
    }
  }
  first_expert_ = matrices_.size();
  per_expert_ = layer.per_expert;
  for (uint32_t e = 0; e < layer.num_experts(); ++e) {
    Eigen::Index row = 0;
    for (const PlacedMatrix& m : layer.expert(e)) {
      const bool down = m.role == Role::kExpertDown;
      matrices_.push_back({.role = m.role,
                           .linear = down ? Linear::kDown : Linear::kGateUp,
                           .rows = m.rows,
                           .cols = m.cols,
                           .first_row = down ? 0 : row,
                           .input_owner = down ? matrices_.size() : first_expert_ + e * per_expert_,
                           .expert = e});
      row += m.rows;
    }
  }
  for (size_t v = layer.first_vector; v < layer.end_vector; ++v) {
    const VectorPlace& place = layout.vectors[v];
    vectors_.push_back({place.role, vector_elements_, place.size, place.one_plus});
    vector_elements_ += place.size;
  }
}

/// Of size 0 if the layer has none.
LayerVector LayerGraph::find(Role role) const {
  const auto found =
      std::find_if(vectors_.begin(), vectors_.end(), [&](const LayerVector& v) { return v.role == role; });
  return found != vectors_.end() ? *found : LayerVector();
}

void LayerGraph::expand(const std::vector<Step>& steps, const LayerLayout& layer, Eigen::Index first_vector) {
  size_t value_in[kNumSlots] = {};  // what each slot holds at this step
  input_value_.resize(matrices_.size());
  output_value_.resize(matrices_.size());
  base_value_.assign(matrices_.size(), kNoValue);
  for (const Step& step : steps) {
    Op op;
    op.step = step;
    op.in = value_in[static_cast<size_t>(step.in)];
    op.base = value_in[static_cast<size_t>(step.out)];
    if (step.kind == StepKind::kRotate) {
      op.out = op.in;
    } else {
      op.out = widths_.size();
      widths_.push_back(step.kind == StepKind::kActivate ? Eigen::Index{spec_.dense_width()}
                        : step.kind == StepKind::kShare
                            ? widths_[op.in]
                            : Eigen::Index{slot_width(spec_, static_cast<uint32_t>(hidden()), step.out)});
    }
    if (step.kind == StepKind::kScale) op.gain = find(step.gain);
    if (step.kind == StepKind::kNorm) {
      op.gain = find(step.gain);
      op.bias = find(step.bias);
    }
    if (step.kind == StepKind::kQkNorm) {
      op.gain = find(Role::kQNorm);
      op.key_gain = find(Role::kKNorm);
    }
    if (step.kind == StepKind::kAttend) op.gain = find(Role::kSinks);
    if (step.kind == StepKind::kRoute) {
      op.gain = find(Role::kRouter);
      op.bias = find(Role::kRouterBias);
      op.key_gain = find(Role::kSharedGate);
    }
    if (step.kind == StepKind::kExperts) {
      op.first_matrix = first_expert_;
      op.end_matrix = matrices_.size();
      op.bias = find(Role::kExpertGateUpBias);
      op.key_gain = find(Role::kExpertDownBias);
    }
    op.routed = value_in[static_cast<size_t>(Slot::kRouted)];
    if (step.kind == StepKind::kLinear) {
      op.first_matrix = layer.first[static_cast<size_t>(step.linear)];
      op.end_matrix = layer.first[static_cast<size_t>(step.linear) + 1];
      if (layer.bias(step.linear) != kNoVector) {
        op.bias.at = layer.bias(step.linear) - first_vector;
        op.bias.size = widths_[op.out];
      }
      for (size_t m = op.first_matrix; m < op.end_matrix; ++m) {
        input_value_[m] = op.in;
        output_value_[m] = op.out;
        if (step.accumulate) base_value_[m] = op.base;
      }
    }
    value_in[static_cast<size_t>(step.out)] = op.out;
    ops_.push_back(op);
  }
  output_ = value_in[static_cast<size_t>(Slot::kResidual)];
  for (size_t m = 0; m < first_expert_; ++m) {
    const auto first = std::find(input_value_.begin(), input_value_.end(), input_value_[m]);
    matrices_[m].input_owner = static_cast<size_t>(first - input_value_.begin());
  }
}

void LayerGraph::compute_angles(Eigen::Index context) {
  const std::vector<double> frequencies =
      spec_.rope_dims() != 0 ? rope_frequencies(spec_, static_cast<uint32_t>(context)) : std::vector<double>();
  cosine_.resize(context, eigen_index(frequencies.size()));
  sine_.resize(context, eigen_index(frequencies.size()));
  query_scales_.resize(context);
  const double factor = spec_.rope.attention_factor;
  for (Eigen::Index t = 0; t < context; ++t) {
    for (Eigen::Index i = 0; i < cosine_.cols(); ++i) {
      const double angle = static_cast<double>(t) * frequencies[static_cast<size_t>(i)];
      cosine_(t, i) = factor * std::cos(angle);
      sine_(t, i) = factor * std::sin(angle);
    }
    query_scales_[t] = double{query_scale(spec_, static_cast<uint32_t>(t))};
  }
}

Eigen::Index LayerGraph::elements_per_token() const {
  Eigen::Index sum = 0;
  for (const LayerMatrix& m : matrices_) {
    if (m.expert == LayerMatrix::kNoExpert || m.expert < spec_.experts.per_token) sum += m.rows * m.cols;
  }
  return sum;
}

}  // namespace nwc
