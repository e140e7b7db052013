#include "runtime/engine/experts_cpu.h"

#include <algorithm>

namespace nwc {

ExpertsCpu::ExpertsCpu(const ForwardInputs& inputs, WeightSource& source, const HeldProduct& product)
    : layout_(inputs.layout), source_(source), held_(*inputs.plan.held), product_(product), schedule_(inputs, source) {}

Status ExpertsCpu::allocate(const SessionSizes& sizes, HostMemory* memory) {
  NWC_TRY(schedule_.allocate(sizes, memory));
  slot_bytes_ = sizes.expert;
  const auto get = [memory](Buffer& buffer, uint64_t bytes, const char* name) {
    return buffer.allocate(bytes, memory, name);
  };
  uint64_t slot_bytes = 0;
  if (!checked_mul(schedule_.slots(), slot_bytes_, &slot_bytes))
    return limit_error("the model's experts are too large");
  NWC_TRY(
      slots_.allocate(slot_bytes, memory, "decoded experts", schedule_.holds_all() ? Filled::kWhole : Filled::kPartly));
  NWC_TRY(get(routed_, sizes.routed, "the choice of experts"));
  NWC_TRY(get(logits_, sizes.router_logits, "the router's logits"));
  NWC_TRY(get(order_, sizes.router_order, "the order of experts"));
  NWC_TRY(get(gathered_, sizes.hidden, "the inputs of an expert"));
  NWC_TRY(get(inner_, sizes.expert_inner, "an expert's activations"));
  return get(outputs_, sizes.hidden, "the outputs of an expert");
}

ExpertSchedule::Decode ExpertsCpu::decode(uint32_t layer) {
  return [this, layer](std::span<const ExpertPlace> places) {
    std::vector<ExpertRequest> requests;
    for (const ExpertPlace& p : places)
      requests.push_back({p.expert, MutableBytes(slot(p.slot), static_cast<size_t>(slot_bytes_))});
    return source_.decode_experts(layer, requests);
  };
}

void ExpertsCpu::route(uint32_t layer, uint32_t tokens, const float* in, const float* vectors) {
  nwc::route(product_.kernels, product_.runner, layout_.block(layer).experts, router(vectors, layer), tokens,
             layout_.model.hidden_size, in, logits_.as<float>(), order_.as<uint32_t>(), product_.scratch,
             routed_.as<float>());
}

void ExpertsCpu::compute(uint32_t layer, uint32_t expert, std::span<const ExpertChoice> choices, const float* in,
                         const float* vectors, float* out) {
  const BlockSpec& block = layout_.block(layer);
  const uint32_t hidden = layout_.model.hidden_size, inner = block.experts.intermediate_size;
  const uint32_t tokens = static_cast<uint32_t>(choices.size());
  const std::span<const PlacedMatrix> matrices = layout_.layers[layer].expert(expert);
  const uint8_t* const weights = slot(schedule_.slot(layer, expert));
  const float* x = in + size_t{choices[0].token} * hidden;
  if (tokens != 1) {
    for (uint32_t i = 0; i < tokens; ++i)
      std::copy_n(in + size_t{choices[i].token} * hidden, hidden, gathered_.as<float>() + size_t{i} * hidden);
    x = gathered_.as<float>();
  }
  float* const activations = inner_.as<float>();
  float* const outputs = outputs_.as<float>();
  product_.multiply(held_, layout_, layer, matrices.first(matrices.size() - 1), weights, tokens, x, hidden, activations,
                    size_t{2} * inner);
  if (const float* bias = vector(vectors, layer, Role::kExpertGateUpBias); bias != nullptr)
    add_bias(product_.runner, tokens, 2 * inner, bias + size_t{expert} * 2 * inner, activations, size_t{2} * inner);
  activate(product_.kernels, product_.runner, tokens, inner, block, activations);
  product_.multiply(held_, layout_, layer, matrices.last(1), weights, tokens, activations, size_t{2} * inner, outputs,
                    hidden);
  if (const float* bias = vector(vectors, layer, Role::kExpertDownBias); bias != nullptr)
    add_bias(product_.runner, tokens, hidden, bias + size_t{expert} * hidden, outputs, hidden);
  for (uint32_t i = 0; i < tokens; ++i) {
    float* const to = out + size_t{choices[i].token} * hidden;
    const float* const from = outputs + size_t{i} * hidden;
    for (uint32_t j = 0; j < hidden; ++j) to[j] += choices[i].weight * from[j];
  }
}

Status ExpertsCpu::run(uint32_t layer, uint32_t tokens, const float* in, const float* residual, const float* vectors,
                       bool accumulate, float* out) {
  if (!accumulate) std::fill_n(out, size_t{tokens} * layout_.model.hidden_size, 0.0f);
  schedule_.choose(layer, tokens, routed_.as<float>());
  if (schedule_.expects(layer, tokens)) expect_next(layer, tokens, residual, vectors);
  const uint32_t at_once = std::min(kExpertsAtOnce, schedule_.slots());
  const std::span<const uint32_t> needed = schedule_.needed();
  std::span<const ExpertChoice> rest = schedule_.choices();
  for (size_t n = 0; n < needed.size(); n += at_once) {
    const std::span<const uint32_t> experts = needed.subspan(n, std::min<size_t>(at_once, needed.size() - n));
    NWC_TRY(schedule_.bring(layer, experts, decode(layer)));
    for (const uint32_t e : experts) {
      size_t count = 0;
      while (count < rest.size() && rest[count].expert == e) ++count;
      compute(layer, e, rest.first(count), in, vectors, out);
      rest = rest.subspan(count);
    }
  }
  return {};
}

void ExpertsCpu::share(uint32_t layer, uint32_t tokens, uint32_t width, size_t stride, float* x) {
  const uint32_t per_token = layout_.block(layer).experts.per_token;
  for (uint32_t t = 0; t < tokens; ++t) {
    const float by = routed_row(routed_.as<float>() + size_t{t} * (2 * per_token + 1), per_token).share;
    for (uint32_t i = 0; i < width; ++i) x[t * stride + i] *= by;
  }
}

void ExpertsCpu::expect_next(uint32_t layer, uint32_t tokens, const float* residual, const float* vectors) {
  const uint32_t next = layer + 1, hidden = layout_.model.hidden_size;
  const BlockSpec& block = layout_.block(next);
  float* const inputs = gathered_.as<float>();
  if (block.norm_before) {
    const NormParams params{block.norm, block.norm_eps, vector(vectors, next, router_norm(block)),
                            vector(vectors, next, router_norm_bias(block))};
    norm_rows(product_.kernels, product_.runner, tokens, hidden, params, rows_of(const_cast<float*>(residual), hidden),
              rows_of(inputs, hidden));
  } else {
    std::copy_n(residual, size_t{tokens} * hidden, inputs);
  }
  // inner_ is free until this layer's experts compute.
  float* const rows = inner_.as<float>();
  nwc::route(product_.kernels, product_.runner, block.experts, router(vectors, next), tokens, hidden, inputs,
             logits_.as<float>(), order_.as<uint32_t>(), product_.scratch, rows);
  schedule_.expect(next, tokens, rows);
}

}  // namespace nwc
