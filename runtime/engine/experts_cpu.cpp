#include "runtime/engine/experts_cpu.h"

#include <algorithm>
#include <chrono>

namespace nwc {
namespace {

/// Tokens of a batch that is asked which experts come next: a longer one needs most of them anyway.
constexpr uint32_t kExpectTokens = 4;

/// Experts of the layers in front of each, and of all of them.
std::vector<uint64_t> count_before(const ModelLayout& layout) {
  std::vector<uint64_t> before = {0};
  for (const LayerLayout& layer : layout.layers) before.push_back(before.back() + layer.num_experts());
  return before;
}

}  // namespace

ExpertsCpu::ExpertsCpu(const NwcFile& file, const ModelLayout& layout, const MemoryPlan& plan, WeightSource& source,
                       const HeldProduct& product)
    : file_(file),
      layout_(layout),
      source_(source),
      held_(*plan.held),
      product_(product),
      before_(count_before(layout)),
      cache_(before_.back(), plan.expert_slots) {}

Status ExpertsCpu::allocate(const SessionSizes& sizes, uint64_t* counter) {
  slot_bytes_ = sizes.expert;
  const auto get = [counter](Buffer& buffer, uint64_t bytes, const char* name) {
    return buffer.allocate(bytes, counter, name);
  };
  uint64_t slot_bytes = 0;
  if (!checked_mul(cache_.slots(), slot_bytes_, &slot_bytes)) return limit_error("the model's experts are too large");
  NWC_TRY(slots_.allocate(slot_bytes, counter, "decoded experts",
                          cache_.slots() == before_.back() ? Filled::kWhole : Filled::kPartly));
  NWC_TRY(get(routed_, sizes.routed, "the choice of experts"));
  NWC_TRY(get(logits_, sizes.router_logits, "the router's logits"));
  NWC_TRY(get(order_, sizes.router_order, "the order of experts"));
  NWC_TRY(get(gathered_, sizes.hidden, "the inputs of an expert"));
  NWC_TRY(get(inner_, sizes.expert_inner, "an expert's activations"));
  return get(outputs_, sizes.hidden, "the outputs of an expert");
}

Status ExpertsCpu::load(uint32_t layer) {
  const uint32_t count = layout_.layers[layer].num_experts();
  needed_.resize(count);
  for (uint32_t e = 0; e < count; ++e) needed_[e] = e;
  for (uint32_t e = 0; e < count; e += kExpertsAtOnce) {
    NWC_TRY(bring(layer, std::span(needed_).subspan(e, std::min(kExpertsAtOnce, count - e))));
  }
  stats_ = {};
  return {};
}

void ExpertsCpu::route(uint32_t layer, uint32_t tokens, const float* in, const float* vectors) {
  nwc::route(product_.kernels, product_.runner, layout_.block(layer).experts, router(vectors, layer), tokens,
             layout_.model.hidden_size, in, logits_.as<float>(), order_.as<uint32_t>(), product_.scratch,
             routed_.as<float>());
}

// Experts that lie in memory are touched, the others decoded together.
Status ExpertsCpu::bring(uint32_t layer, std::span<const uint32_t> experts) {
  std::vector<ExpertRequest> missing;
  for (const uint32_t e : experts) {
    if (const uint32_t slot = cache_.find(before_[layer] + e); slot != ExpertCache::kNone) {
      cache_.touch(slot);
      ++stats_.hits;
    }
  }
  for (const uint32_t e : experts) {
    if (cache_.find(before_[layer] + e) != ExpertCache::kNone) continue;
    const uint32_t slot = cache_.place(before_[layer] + e);
    missing.push_back({e, MutableBytes(slots_.data() + slot * slot_bytes_, static_cast<size_t>(slot_bytes_))});
    for (const PlacedMatrix& m : layout_.layers[layer].expert(e)) {
      source_.will_decode(m.tensor);
      stats_.bytes_read += file_.tensors()[m.tensor].size;
    }
  }
  if (missing.empty()) return {};
  stats_.misses += missing.size();
  const auto start = std::chrono::steady_clock::now();
  if (stream_ != nullptr) stream_->pause();
  const Status status = source_.decode_experts(layer, missing);
  if (stream_ != nullptr) stream_->resume();
  stats_.stall_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!status.ok()) {
    for (const ExpertRequest& request : missing) cache_.drop(before_[layer] + request.expert);
  }
  return status;
}

void ExpertsCpu::compute(uint32_t layer, uint32_t expert, std::span<const Choice> choices, const float* in,
                         const float* vectors, float* out) {
  const BlockSpec& block = layout_.block(layer);
  const uint32_t hidden = layout_.model.hidden_size, inner = block.experts.intermediate_size;
  const uint32_t tokens = static_cast<uint32_t>(choices.size());
  const std::span<const PlacedMatrix> matrices = layout_.layers[layer].expert(expert);
  const uint8_t* const weights = slot(cache_.find(before_[layer] + expert));
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

Status ExpertsCpu::run(uint32_t layer, uint32_t tokens, const float* in, const float* vectors, bool accumulate,
                       float* out) {
  const ExpertSpec& spec = layout_.block(layer).experts;
  const uint32_t hidden = layout_.model.hidden_size, width = 2 * spec.per_token + 1;
  if (!accumulate) std::fill_n(out, size_t{tokens} * hidden, 0.0f);
  choices_.clear();
  for (uint32_t t = 0; t < tokens; ++t) {
    const Routed routed = routed_row(routed_.as<float>() + size_t{t} * width, spec.per_token);
    for (uint32_t i = 0; i < spec.per_token; ++i) choices_.push_back({routed.experts[i], t, routed.weights[i]});
  }
  std::sort(choices_.begin(), choices_.end(), [](const Choice& a, const Choice& b) {
    return a.expert != b.expert ? a.expert < b.expert : a.token < b.token;
  });
  needed_.clear();
  for (const Choice& choice : choices_) {
    if (needed_.empty() || needed_.back() != choice.expert) needed_.push_back(choice.expert);
  }
  for (const uint32_t e : expected_) stats_.predicted_used += std::binary_search(needed_.begin(), needed_.end(), e);
  expected_.clear();
  for (const uint32_t e : needed_) {  // so that they do not make way for those that are decoded first
    const uint32_t slot = cache_.find(before_[layer] + e);
    if (slot != ExpertCache::kNone) cache_.touch(slot);
  }
  const uint32_t at_once = std::min(kExpertsAtOnce, cache_.slots());
  std::span<const Choice> rest = choices_;
  for (size_t n = 0; n < needed_.size(); n += at_once) {
    const std::span<const uint32_t> experts =
        std::span(needed_).subspan(n, std::min<size_t>(at_once, needed_.size() - n));
    NWC_TRY(bring(layer, experts));
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
  expected_.clear();
  const uint32_t next = layer + 1;
  if (cache_.slots() == before_.back() || tokens > kExpectTokens || next >= layout_.layers.size()) return;
  const BlockSpec& block = layout_.block(next);
  if (block.experts.num_experts == 0) return;
  const uint32_t hidden = layout_.model.hidden_size, width = 2 * block.experts.per_token + 1;
  float* const inputs = gathered_.as<float>();
  if (block.norm_before) {
    const Role gain = block.parallel == Parallel::kSharedNorm ? Role::kAttentionNorm : Role::kMlpNorm;
    const Role bias = block.parallel == Parallel::kSharedNorm ? Role::kAttentionNormBias : Role::kMlpNormBias;
    const NormParams params{block.norm, block.norm_eps, vector(vectors, next, gain), vector(vectors, next, bias)};
    norm_rows(product_.kernels, product_.runner, tokens, hidden, params, rows_of(const_cast<float*>(residual), hidden),
              rows_of(inputs, hidden));
  } else {
    std::copy_n(residual, size_t{tokens} * hidden, inputs);
  }
  // The rows of routed_ are needed until this layer is done; inner_ is free until its experts compute.
  float* const rows = inner_.as<float>();
  nwc::route(product_.kernels, product_.runner, block.experts, router(vectors, next), tokens, hidden, inputs,
             logits_.as<float>(), order_.as<uint32_t>(), product_.scratch, rows);
  for (uint32_t t = 0; t < tokens; ++t) {
    const Routed routed = routed_row(rows + size_t{t} * width, block.experts.per_token);
    expected_.insert(expected_.end(), routed.experts, routed.experts + block.experts.per_token);
  }
  std::sort(expected_.begin(), expected_.end());
  expected_.erase(std::unique(expected_.begin(), expected_.end()), expected_.end());
  std::erase_if(expected_, [&](uint32_t e) { return cache_.find(before_[next] + e) != ExpertCache::kNone; });
  stats_.predicted += expected_.size();
  for (const uint32_t e : expected_) {
    for (const PlacedMatrix& m : layout_.layers[next].expert(e)) source_.will_decode(m.tensor);
  }
}

}  // namespace nwc
