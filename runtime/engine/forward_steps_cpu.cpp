// The steps of a layer in the forward pass on the CPU. The readable twin of forward_steps_vulkan.cpp.
#include "runtime/engine/forward_cpu.h"

namespace nwc {

// out [1][rows] = in [1][cols] times a coded tensor, from its payload.
Status ForwardCpu::fused_multiply(size_t tensor, const float* in, float* out) {
  const TensorRecord& record = file_.tensors()[tensor];
  TensorDecodeOptions options;
  options.cpu = level_;
  options.check_crc = params_.check_crc && fused_->checked[tensor] == 0;
  NWC_TRY(fused_->product.multiply(tensor, 1, {in, static_cast<size_t>(record.cols())},
                                   {out, static_cast<size_t>(record.rows())}, runner_, options));
  fused_->checked[tensor] = 1;
  return {};
}

// out [tokens][rows of all] = in [tokens][cols] times the matrices of one product. weights: the layer's, or null:
// decode or multiply each now, for one token.
Status ForwardCpu::multiply(uint32_t layer, Linear linear, const uint8_t* weights, uint32_t tokens, const float* in,
                            size_t stride, float* out) {
  const LayerLayout& at = layout_.layers[layer];
  if (weights != nullptr) {
    product().multiply(held_, layout_, layer, at.linear(linear), weights, tokens, in, stride, out,
                       at.product(linear).rows);
    return {};
  }
  for (const PlacedMatrix& m : at.linear(linear)) {
    if (file_.tensors()[m.tensor].storage == Storage::kCoded) {
      NWC_TRY(fused_multiply(m.tensor, in, out));
    } else {
      const HeldView view{&held_.matrix(layout_, layer, m), stream_buffers_[0].data()};
      NWC_TRY(source_.decode_matrix(m.tensor, *view.held, {stream_buffers_[0].data(), stream_buffers_[0].size()}));
      product().multiply({&view, 1}, 1, in, m.cols, out, m.rows);
    }
    out += m.rows;
  }
  return {};
}

void ForwardCpu::norm(const Step& step, uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const LayerLayout& at = layout_.layers[layer];
  const uint32_t n = model_.hidden_size;
  const NormParams params{block.norm, block.norm_eps, vector(at.vector(step.gain)), vector(at.vector(step.bias))};
  norm_rows(kernels_, runner_, tokens, n, params, rows_of(slot(step.in).as<float>(), n),
            rows_of(slot(step.out).as<float>(), n));
}

void ForwardCpu::norm_queries_and_keys(uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const LayerLayout& at = layout_.layers[layer];
  const bool whole = block.qk_norm == QkNorm::kWhole;
  float* from = qkv_.as<float>();
  for (const bool keys : {false, true}) {
    const uint32_t width = keys ? block.kv_width() : block.q_width();
    const uint32_t n = whole ? width : block.head_dim, each = width / n;
    const Role role = keys ? Role::kKNorm : Role::kQNorm;
    const NormParams params{block.norm, block.norm_eps, vector(at.vector(role)), nullptr};
    const RowsView rows{from, n, each, this->width(layer, Slot::kQkv)};
    norm_rows(kernels_, runner_, tokens * each, n, params, rows, rows);
    from += width;
  }
}

void ForwardCpu::rotate(uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const uint32_t half = block.rope_dims() / 2, width = this->width(layer, Slot::kQkv);
  const uint32_t rotated = block.num_heads + block.num_kv_heads;  // queries and keys, next to each other
  parallel_for(runner_, tokens, [&](uint32_t t, uint32_t) {
    float* heads = qkv_.as<float>() + size_t{t} * width;
    const float* angle = angles_.as<float>() + size_t{t} * rotary_.width() + rotary_.at(layout_.layers[layer].kind);
    for (uint32_t h = 0; h < rotated; ++h) rope_rotate(heads + size_t{h} * block.head_dim, half, angle, angle + half);
    if (block.temperature_beta == 0) return;
    for (uint32_t i = 0; i < block.q_width(); ++i) heads[i] *= angle[2 * half];
  });
}

void ForwardCpu::store_and_attend(uint32_t layer, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  const size_t width = this->width(layer, Slot::kQkv);
  parallel_for(runner_, tokens, [&](uint32_t t, uint32_t) {
    const float* key = qkv_.as<float>() + t * width + block.q_width();
    const KvCache& cache = caches_[each_ ? t : 0];
    cache.store(kernels_, layer, position_of(t), key, key + block.kv_width());
  });
  const float* const sinks = vector(layout_.layers[layer].vector(Role::kSinks));
  const size_t scratch = sizes_.worker_scratch / sizeof(float);
  if (!each_) {
    attend(kernels_, runner_, block, caches_[0], layer, position_, tokens, qkv_.as<float>(), width, sinks,
           attention_.as<float>(), scratch_.as<float>(), scratch);
    return;
  }
  parallel_for(runner_, tokens, [&](uint32_t t, uint32_t worker) {
    attend(kernels_, *alone_, block, caches_[t], layer, position_, 1, qkv_.as<float>() + t * width, width, sinks,
           attention_.as<float>() + size_t{t} * block.q_width(), scratch_.as<float>() + worker * scratch, scratch);
  });
}

Status ForwardCpu::linear(const Step& step, uint32_t layer, const uint8_t* weights, uint32_t tokens) {
  float* const out = (step.accumulate ? branch_ : slot(step.out)).as<float>();
  const uint32_t rows = width(layer, step.out);
  NWC_TRY(multiply(layer, step.linear, weights, tokens, slot(step.in).as<float>(), width(layer, step.in), out));
  const uint32_t bias = layout_.layers[layer].bias(step.linear);
  if (bias != kNoVector) add_bias(runner_, tokens, rows, vector(bias), out, rows);
  if (step.accumulate) add_rows(runner_, tokens, rows, 1, slot(step.out).as<float>(), out);
  return {};
}

Status ForwardCpu::run_step(const Step& step, uint32_t layer, const uint8_t* weights, uint32_t tokens) {
  const BlockSpec& block = layout_.block(layer);
  switch (step.kind) {
    case StepKind::kNorm: norm(step, layer, tokens); break;
    case StepKind::kLinear: return linear(step, layer, weights, tokens);
    case StepKind::kQkNorm: norm_queries_and_keys(layer, tokens); break;
    case StepKind::kRotate: rotate(layer, tokens); break;
    case StepKind::kAttend: store_and_attend(layer, tokens); break;
    case StepKind::kActivate:
      activate(kernels_, runner_, tokens, block.dense_width(), block, inner_.as<float>());
      break;
    case StepKind::kRoute: experts_->route(layer, tokens, slot(step.in).as<float>(), vectors_.as<float>()); break;
    case StepKind::kExperts:
      return experts_->run(layer, tokens, slot(step.in).as<float>(), x_.as<float>(), vectors_.as<float>(),
                           step.accumulate, slot(step.out).as<float>());
    case StepKind::kShare:
      experts_->share(layer, tokens, block.dense_width(), width(layer, Slot::kInner), inner_.as<float>());
      break;
    case StepKind::kScale:
      scale_rows(runner_, tokens, model_.hidden_size, vector(layout_.layers[layer].vector(step.gain)),
                 slot(step.in).as<float>());
      break;
    case StepKind::kAdd:
      add_rows(runner_, tokens, model_.hidden_size, step.scale, slot(step.out).as<float>(), slot(step.in).as<float>());
      break;
  }
  return {};
}

Status ForwardCpu::run_layer(uint32_t layer, const uint8_t* weights, uint32_t tokens) {
  for (const Step& step : layout_.layer_steps(layer)) NWC_TRY(run_step(step, layer, weights, tokens));
  return {};
}

}  // namespace nwc
