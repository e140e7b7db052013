// The steps of a layer in the forward pass on a Vulkan device, recorded. Must match forward_steps_cpu.cpp within
// rounding.
#include "runtime/engine/forward_vulkan.h"

namespace nwc {

// out [tokens][rows of all] = (add: +=) in [tokens][cols] times matrices first to last, which have the same input.
// weights: the layer's, or null: from the payloads.
Status ForwardVulkan::multiply(uint32_t layer, Linear linear, const DeviceBuffer* weights, uint32_t tokens,
                               const DeviceBuffer& in, const DeviceBuffer& out, uint32_t out_stride, bool add) {
  if (weights == nullptr) return multiply_coded(layer, linear, tokens, in, out, out_stride, add);
  const uint32_t cols = layout_.layers[layer].linear(linear).front().cols;
  return weights_.multiply(*batch_, layer, linear, *weights, tokens, {&in, 0, cols}, {&out, 0, out_stride}, add);
}

Status ForwardVulkan::multiply_coded(uint32_t layer, Linear linear, uint32_t tokens, const DeviceBuffer& in,
                                     const DeviceBuffer& out, uint32_t out_stride, bool add) {
  std::vector<VulkanFusedProduct::Product> products;
  uint64_t at = 0;
  for (const PlacedMatrix& m : layout_.layers[layer].linear(linear)) {
    const size_t tensor = m.tensor;
    const uint64_t rows = m.rows;
    const uint32_t cols = m.cols;
    if (coded(tensor)) {
      const uint64_t offset = at * sizeof(float);
      products.push_back({tensor, tokens, &in, cols, BufferView(&out, offset, out.size() - offset), out_stride, add});
    } else {
      // Decoded now: whatever still reads the buffer has to be done.
      NWC_TRY(next_submission());
      NWC_ASSIGN_OR_RETURN(const DeviceMatrix matrix, weights_.decode_floats(layer, m, stream_buffers_[0]));
      NWC_TRY(ops_.matmul(*batch_, matrix, tokens, {&in, 0, cols}, {&out, static_cast<uint32_t>(at), out_stride}, add));
      batch_->barrier();
    }
    at += rows;
  }
  return products.empty() ? Status() : fused_->record(*batch_, products);
}

Status ForwardVulkan::next_submission() {
  NWC_TRY(batch_->submit_and_wait());
  macs_ = 0;
  NWC_TRY(batch_->begin());
  batch_->barrier();
  return {};
}

Status ForwardVulkan::record_norm(const Step& step, uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const LayerLayout& at = layout_.layers[layer];
  const uint32_t n = model_.hidden_size;
  const LayerOps::Norm norm{block.norm, block.norm_eps, n, 1, at.vector(step.gain), at.vector(step.bias)};
  return ops_.norm(*batch_, norm, tokens, {&slot(step.in, true), 0, n}, vectors_, {&slot(step.out, false), 0, n});
}

Status ForwardVulkan::record_qk_norm(uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const LayerLayout& at = layout_.layers[layer];
  const uint32_t stride = width(layer, Slot::kQkv);
  uint32_t from = 0;
  for (const bool keys : {false, true}) {
    const uint32_t all = keys ? block.kv_width() : block.q_width();
    const uint32_t n = block.qk_norm == QkNorm::kWhole ? all : block.head_dim;
    const Role role = keys ? Role::kKNorm : Role::kQNorm;
    const LayerOps::Norm norm{block.norm, block.norm_eps, n, all / n, at.vector(role), kNoVector};
    NWC_TRY(ops_.norm(*batch_, norm, tokens, {&qkv_, from, stride}, vectors_, {&qkv_, from, stride}));
    from += all;
  }
  return {};
}

Status ForwardVulkan::record_linear(const Step& step, uint32_t layer, const DeviceBuffer* weights, uint32_t tokens) {
  const uint32_t rows = width(layer, step.out);
  const DeviceBuffer& out = slot(step.out, false);
  NWC_TRY(multiply(layer, step.linear, weights, tokens, slot(step.in, true), out, rows, step.accumulate));
  const uint32_t bias = layout_.layers[layer].bias(step.linear);
  if (bias == kNoVector) return {};
  batch_->barrier();
  return ops_.add_rows(*batch_, tokens, rows, 1, {&out, 0, rows}, {&vectors_, bias, 0});
}

Status ForwardVulkan::record_step(const Step& step, uint32_t layer, const DeviceBuffer* weights, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const uint32_t n = model_.hidden_size;
  switch (step.kind) {
    case StepKind::kNorm: return record_norm(step, layer, tokens);
    case StepKind::kLinear: return record_linear(step, layer, weights, tokens);
    case StepKind::kQkNorm: return record_qk_norm(layer, tokens);
    case StepKind::kRotate: return {};
    case StepKind::kAttend: {
      const uint32_t table = angles_at() + rotary_.at(layout_.layers[layer].kind);
      NWC_TRY(ops_.rope_store(*batch_, block, tokens, position_, kept(layer), qkv_, {&inputs_, table, rotary_.width()},
                              cache_[layer]));
      batch_->barrier();
      const uint32_t sinks = layout_.layers[layer].vector(Role::kSinks);
      return ops_.attend(*batch_, block, tokens, position_, kept(layer), qkv_, cache_[layer],
                         sinks != kNoVector ? DeviceRows{&vectors_, sinks, 0} : DeviceRows(), partials_, attention_);
    }
    case StepKind::kActivate:
      return ops_.activate(*batch_, block, tokens, block.dense_width(), {&gate_up_, 0, 0}, {&activated_, 0, 0});
    case StepKind::kAdd:
      return ops_.add_rows(*batch_, tokens, n, step.scale, {&slot(step.out, false), 0, n},
                           {&slot(step.in, true), 0, n});
    case StepKind::kRoute: return experts_->route(*batch_, layer, tokens, slot(step.in, true), x_);
    case StepKind::kExperts:
      macs_ = 0;
      return experts_->run(*batch_, layer, tokens, slot(step.in, true), step.accumulate, slot(step.out, false));
    case StepKind::kShare: return experts_->share(*batch_, layer, tokens, block.dense_width(), activated_);
    case StepKind::kScale:
      return ops_.scale_rows(*batch_, tokens, n, {&slot(step.in, false), 0, n},
                             {&vectors_, layout_.layers[layer].vector(step.gain), 0});
  }
  return {};
}

Status ForwardVulkan::record_layer(uint32_t layer, const DeviceBuffer* weights, uint32_t tokens) {
  for (const Step& step : layout_.layer_steps(layer)) {
    if (step.kind == StepKind::kRotate) continue;  // on the way to the cache
    NWC_TRY(record_step(step, layer, weights, tokens));
    batch_->barrier();
  }
  return {};
}

}  // namespace nwc
