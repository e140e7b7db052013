// The forward pass on a Vulkan device: weights, KV cache and activations lie in its memory, tokens go in, logits come
// out. Must match forward_cpu.cpp within rounding.
#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/base/str_cat.h"
#include "runtime/decoder/vulkan/device_product.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/layer_ops_self_test_vulkan.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/rope.h"

namespace nwc {
namespace {

/// Multiply-accumulates of one submission: well below the second or two after which some systems reset a device.
constexpr uint64_t kMaxSubmissionMacs = 200'000'000'000;
constexpr uint64_t kMaxSubmissionMacsSoftware = 10'000'000'000;

class ForwardVulkan final : public Forward {
 public:
  ForwardVulkan(const ForwardInputs& in, DeviceDecoder& decoder)
      : file_(in.file),
        params_(in.params),
        layout_(in.layout),
        plan_(in.plan),
        model_(layout_.model),
        decoder_(decoder),
        device_(decoder.device()),
        ops_(device_, model_, plan_.context, params_.kv_dtype),
        host_source_(file_, decoder, layout_, params_.weight_dtype, params_.check_crc, in.runner.num_workers()),
        frequencies_(rope_frequencies(model_)),
        checked_(file_) {}

  Status allocate();
  Status load(const Progress& progress);
  Status run(std::span<const uint32_t> tokens, uint32_t position) override;
  Status logits(uint32_t first, uint32_t count, float* out) override;
  uint64_t allocated_bytes() const override { return allocated_ + (fused_ == nullptr ? 0 : fused_->device_bytes()); }

 private:
  Status get(DeviceBuffer& buffer, uint64_t bytes, MemoryKind kind);
  DeviceMatrix matrix(const DeviceBuffer& buffer, uint64_t element, uint64_t rows, uint64_t cols) const {
    return {&buffer, element * dtype_size(params_.weight_dtype), params_.weight_dtype, static_cast<uint32_t>(rows),
            static_cast<uint32_t>(cols)};
  }
  Status decode_rows(size_t tensor, uint64_t begin, uint64_t end, const DeviceBuffer& out);
  Status decode_layer(uint32_t layer, const DeviceBuffer& out);
  Status decode(std::span<DeviceDecodeRequest> requests);
  Status upload(const DeviceBuffer& to, uint64_t bytes);
  Status embed_on_host(std::span<const uint32_t> tokens);
  Status begin_batch(std::span<const uint32_t> tokens);
  Status record_layer(uint32_t layer, const DeviceBuffer* weights, uint32_t tokens);
  Status multiply(uint32_t layer, LayerMatrix first, LayerMatrix last, const DeviceBuffer* weights, uint32_t tokens,
                  const DeviceBuffer& in, const DeviceBuffer& out, uint32_t out_stride, bool add);
  Status multiply_coded(uint32_t layer, LayerMatrix first, LayerMatrix last, uint32_t tokens, const DeviceBuffer& in,
                        const DeviceBuffer& out, uint32_t out_stride, bool add);
  Status next_submission();
  bool coded(size_t tensor) const { return file_.tensors()[tensor].storage == Storage::kCoded; }
  Status logits_of(uint32_t first, uint32_t count, float* out);

  const NwcFile& file_;
  const SessionParams& params_;
  const LlamaLayout& layout_;
  const MemoryPlan& plan_;
  const ModelRecord& model_;
  DeviceDecoder& decoder_;
  VulkanDevice& device_;
  const LayerOps ops_;
  WeightSource host_source_;  ///< for what the host reads: norms, embedding rows
  const std::vector<double> frequencies_;
  CheckedRows checked_;
  SessionSizes sizes_;
  uint64_t allocated_ = 0;

  DeviceBuffer norms_, embedding_, head_, head_band_, stream_buffers_[2];
  std::vector<DeviceBuffer> layers_, cache_;  ///< per layer
  DeviceBuffer x_, normed_, qkv_, attention_, gate_up_, activated_, inputs_, upload_, logits_, readback_;
  Buffer row_;                                 ///< an embedding row on the host
  std::unique_ptr<VulkanFusedProduct> fused_;  ///< kFused, and something is coded
  std::unique_ptr<CommandBatch> batch_;        // after the buffers: what is in flight ends before they do
  std::unique_ptr<LayerStream> stream_;        // likewise its thread
  uint32_t position_ = 0;                      ///< of the batch at work
  uint64_t macs_ = 0;                          ///< recorded since the last submission
};

Status ForwardVulkan::get(DeviceBuffer& buffer, uint64_t bytes, MemoryKind kind) {
  NWC_ASSIGN_OR_RETURN(buffer, DeviceBuffer::create(device_, bytes, kind));
  allocated_ += buffer.size();
  return {};
}

Status ForwardVulkan::allocate() {
  sizes_ = session_sizes(file_, layout_, params_, plan_.context, plan_.batch);
  const auto on_device = [this](DeviceBuffer& buffer, uint64_t bytes) {
    return get(buffer, bytes, MemoryKind::kDevice);
  };
  NWC_TRY(on_device(norms_, sizes_.norms));
  layers_.resize(plan_.resident_layers);
  for (DeviceBuffer& layer : layers_) NWC_TRY(on_device(layer, sizes_.layer));
  if (streamed_layers(model_, plan_) != 0) {
    for (DeviceBuffer& buffer : stream_buffers_) NWC_TRY(on_device(buffer, sizes_.layer));
  }
  if (fused_layers(model_, plan_) != 0) NWC_TRY(on_device(stream_buffers_[0], sizes_.layer));
  if (plan_.embedding_resident) NWC_TRY(on_device(embedding_, sizes_.embedding));
  if (!plan_.embedding_resident) NWC_TRY(row_.allocate(sizes_.embedding_row, &allocated_, "an embedding row"));
  if (plan_.head_resident && !model_.tied_embeddings) NWC_TRY(on_device(head_, sizes_.head));
  if (!plan_.head_resident) NWC_TRY(on_device(head_band_, sizes_.head_band));
  cache_.resize(model_.num_layers);
  for (DeviceBuffer& layer : cache_) NWC_TRY(on_device(layer, sizes_.layer_cache));
  for (DeviceBuffer* buffer : {&x_, &normed_}) NWC_TRY(on_device(*buffer, sizes_.hidden));
  NWC_TRY(on_device(qkv_, sizes_.qkv));
  NWC_TRY(on_device(attention_, sizes_.attention));
  NWC_TRY(on_device(gate_up_, sizes_.gate_up));
  NWC_TRY(on_device(activated_, sizes_.activated));
  NWC_TRY(on_device(inputs_, sizes_.inputs));
  NWC_TRY(on_device(logits_, sizes_.logits));
  NWC_TRY(get(upload_, sizes_.inputs, MemoryKind::kUpload));
  NWC_TRY(get(readback_, sizes_.logits, MemoryKind::kReadback));
  NWC_ASSIGN_OR_RETURN(batch_, CommandBatch::create(device_, decoder_.pipelines()));
  return {};
}

Status ForwardVulkan::decode(std::span<DeviceDecodeRequest> requests) {
  for (DeviceDecodeRequest& r : requests) {
    r.check_crc = params_.check_crc && checked_.any_unchecked(r.tensor, r.row_begin, r.row_end);
  }
  NWC_TRY(decoder_.decode_to_device(requests));
  for (const DeviceDecodeRequest& r : requests) {
    if (r.check_crc) checked_.mark(r.tensor, r.row_begin, r.row_end);
  }
  return {};
}

Status ForwardVulkan::decode_rows(size_t tensor, uint64_t begin, uint64_t end, const DeviceBuffer& out) {
  const uint64_t bytes = (end - begin) * file_.tensors()[tensor].cols() * dtype_size(params_.weight_dtype);
  DeviceDecodeRequest request{tensor, begin, end, params_.weight_dtype, BufferView(&out, 0, bytes)};
  return decode({&request, 1});
}

Status ForwardVulkan::decode_layer(uint32_t layer, const DeviceBuffer& out) {
  const uint64_t element = dtype_size(params_.weight_dtype);
  DeviceDecodeRequest requests[kNumLayerMatrices];
  for (uint32_t i = 0; i < kNumLayerMatrices; ++i) {
    const uint64_t rows = layout_.matrix_rows(static_cast<LayerMatrix>(i));
    const uint64_t begin = layout_.matrix_offset(i) * element, end = layout_.matrix_offset(i + 1) * element;
    requests[i] = {layout_.layers[layer].matrix[i], 0, rows, params_.weight_dtype,
                   BufferView(&out, begin, end - begin)};
  }
  return decode(requests);
}

// The first bytes of upload_ to a buffer.
Status ForwardVulkan::upload(const DeviceBuffer& to, uint64_t bytes) {
  NWC_TRY(upload_.flush());
  NWC_TRY(batch_->begin());
  batch_->barrier();
  batch_->copy(upload_, 0, to, 0, bytes);
  batch_->barrier();
  return batch_->submit_and_wait();
}

Status ForwardVulkan::load(const Progress& progress) {
  const std::vector<size_t> products = fused_matrices(file_, layout_, plan_);
  const uint64_t steps = plan_.resident_layers + products.size() + 1;
  const auto report = [&](uint64_t done) {
    return progress.report(done, steps) ? Status() : Status(StatusCode::kCancelled, "loading the model was cancelled");
  };
  NWC_TRY(report(0));
  {
    const uint64_t bytes = layout_.norm_elements() * sizeof(float);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer staging, DeviceBuffer::create(device_, bytes, MemoryKind::kUpload));
    NWC_TRY(host_source_.decode_norms(reinterpret_cast<float*>(staging.mapped().data())));
    NWC_TRY(staging.flush());
    NWC_TRY(batch_->begin());
    batch_->copy(staging, 0, norms_, 0, bytes);
    batch_->barrier();
    NWC_TRY(batch_->submit_and_wait());
  }
  if (plan_.embedding_resident) NWC_TRY(decode_rows(layout_.embedding, 0, model_.vocab_size, embedding_));
  if (head_.size() != 0) NWC_TRY(decode_rows(layout_.head, 0, model_.vocab_size, head_));
  NWC_TRY(report(1));
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    NWC_TRY(decode_layer(l, layers_[l]));
    NWC_TRY(report(uint64_t{l} + 2));
  }
  if (!products.empty()) {
    NWC_ASSIGN_OR_RETURN(fused_, VulkanFusedProduct::create(decoder_));
  }
  for (size_t i = 0; i < products.size(); ++i) {
    NWC_TRY(fused_->load(products[i], params_.check_crc));
    NWC_TRY(report(plan_.resident_layers + i + 2));
  }
  if (streamed_layers(model_, plan_) != 0) {
    NWC_ASSIGN_OR_RETURN(stream_, LayerStream::start(plan_.resident_layers, model_.num_layers,
                                                     [this](uint32_t layer, uint32_t, uint32_t slot) -> Result<bool> {
                                                       NWC_TRY(decode_layer(layer, stream_buffers_[slot]));
                                                       return true;
                                                     }));
  }
  return {};
}

// Rows of an embedding that is not resident, to x.
Status ForwardVulkan::embed_on_host(std::span<const uint32_t> tokens) {
  const uint32_t n = model_.hidden_size;
  float* x = reinterpret_cast<float*>(upload_.mapped().data());
  const MutableBytes row(row_.data(), size_t{n} * dtype_size(params_.weight_dtype));
  for (size_t t = 0; t < tokens.size(); ++t) {
    const size_t at = static_cast<size_t>(std::find(tokens.begin(), tokens.end(), tokens[t]) - tokens.begin());
    if (at < t) {
      std::copy_n(x + at * n, n, x + t * n);
      continue;
    }
    NWC_TRY(host_source_.decode_rows(layout_.embedding, tokens[t], uint64_t{tokens[t]} + 1, row));
    const auto halves = [&](uint32_t i) { return reinterpret_cast<const uint16_t*>(row.data())[i]; };
    if (params_.weight_dtype == Dtype::kF32) {
      std::memcpy(x + t * n, row.data(), row.size());
    } else {
      const bool f16 = params_.weight_dtype == Dtype::kF16;
      for (uint32_t i = 0; i < n; ++i) x[t * n + i] = f16 ? f16_to_f32(halves(i)) : bf16_to_f32(halves(i));
    }
  }
  return upload(x_, tokens.size() * n * sizeof(float));
}

// Uploads ids and angles; begins the batch's first submission with the embedding.
Status ForwardVulkan::begin_batch(std::span<const uint32_t> tokens) {
  if (!plan_.embedding_resident) NWC_TRY(embed_on_host(tokens));
  const uint32_t count = static_cast<uint32_t>(tokens.size());
  uint8_t* to = upload_.mapped().data();
  std::memcpy(to, tokens.data(), tokens.size_bytes());
  float* angles = reinterpret_cast<float*>(to) + plan_.batch;
  for (uint32_t t = 0; t < count; ++t, angles += model_.head_dim) {
    rope_angles(frequencies_, position_ + t, angles, angles + model_.head_dim / 2);
  }
  NWC_TRY(upload_.flush());
  NWC_TRY(batch_->begin());
  batch_->barrier();
  batch_->copy(upload_, 0, inputs_, 0, (uint64_t{plan_.batch} + uint64_t{count} * model_.head_dim) * sizeof(float));
  batch_->barrier();
  if (!plan_.embedding_resident) return {};
  NWC_TRY(ops_.embed(*batch_, matrix(embedding_, 0, model_.vocab_size, model_.hidden_size), inputs_, 0, count, x_));
  batch_->barrier();
  return {};
}

// out [tokens][rows of all] = (add: +=) in [tokens][cols] times matrices first to last, which have the same input.
// weights: the layer's, or null: from the payloads.
Status ForwardVulkan::multiply(uint32_t layer, LayerMatrix first, LayerMatrix last, const DeviceBuffer* weights,
                               uint32_t tokens, const DeviceBuffer& in, const DeviceBuffer& out, uint32_t out_stride,
                               bool add) {
  if (weights == nullptr) return multiply_coded(layer, first, last, tokens, in, out, out_stride, add);
  const uint64_t cols = layout_.matrix_cols(first);
  const uint64_t rows = (layout_.matrix_offset(last + 1u) - layout_.matrix_offset(first)) / cols;
  return ops_.matmul(*batch_, matrix(*weights, layout_.matrix_offset(first), rows, cols), tokens,
                     {&in, 0, static_cast<uint32_t>(cols)}, {&out, 0, out_stride}, add);
}

Status ForwardVulkan::multiply_coded(uint32_t layer, LayerMatrix first, LayerMatrix last, uint32_t tokens,
                                     const DeviceBuffer& in, const DeviceBuffer& out, uint32_t out_stride, bool add) {
  std::vector<VulkanFusedProduct::Product> products;
  uint64_t at = 0;
  for (uint32_t m = first; m <= last; ++m) {
    const size_t tensor = layout_.layers[layer].matrix[m];
    const uint64_t rows = layout_.matrix_rows(static_cast<LayerMatrix>(m));
    const uint32_t cols = static_cast<uint32_t>(layout_.matrix_cols(first));
    if (coded(tensor)) {
      const uint64_t offset = at * sizeof(float);
      products.push_back({tensor, tokens, &in, cols, BufferView(&out, offset, out.size() - offset), out_stride, add});
    } else {
      // Decoded now: whatever still reads the buffer has to be done.
      NWC_TRY(next_submission());
      NWC_TRY(decode_rows(tensor, 0, rows, stream_buffers_[0]));
      NWC_TRY(ops_.matmul(*batch_, matrix(stream_buffers_[0], 0, rows, cols), tokens, {&in, 0, cols},
                          {&out, static_cast<uint32_t>(at), out_stride}, add));
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

Status ForwardVulkan::record_layer(uint32_t layer, const DeviceBuffer* weights, uint32_t tokens) {
  const uint32_t hidden = model_.hidden_size, inner = model_.intermediate_size;
  NWC_TRY(ops_.rms_norm(*batch_, tokens, x_, norms_, 2 * layer * hidden, normed_));
  batch_->barrier();
  NWC_TRY(multiply(layer, kQ, kV, weights, tokens, normed_, qkv_, layout_.qkv_width(), false));
  batch_->barrier();
  NWC_TRY(ops_.rope_store(*batch_, tokens, position_, qkv_, inputs_, plan_.batch, cache_[layer]));
  batch_->barrier();
  NWC_TRY(ops_.attend(*batch_, tokens, position_, qkv_, cache_[layer], attention_));
  batch_->barrier();
  NWC_TRY(multiply(layer, kO, kO, weights, tokens, attention_, x_, hidden, true));
  batch_->barrier();
  NWC_TRY(ops_.rms_norm(*batch_, tokens, x_, norms_, (2 * layer + 1) * hidden, normed_));
  batch_->barrier();
  NWC_TRY(multiply(layer, kGate, kUp, weights, tokens, normed_, gate_up_, 2 * inner, false));
  batch_->barrier();
  NWC_TRY(ops_.swiglu(*batch_, tokens, gate_up_, activated_));
  batch_->barrier();
  NWC_TRY(multiply(layer, kDown, kDown, weights, tokens, activated_, x_, hidden, true));
  batch_->barrier();
  return {};
}

Status ForwardVulkan::run(std::span<const uint32_t> tokens, uint32_t position) {
  position_ = position;
  const uint32_t count = static_cast<uint32_t>(tokens.size());
  const uint64_t most = device_.info().quirks.software ? kMaxSubmissionMacsSoftware : kMaxSubmissionMacs;
  const uint64_t layer_macs = layout_.matrix_offset(kNumLayerMatrices) * count;
  const bool from_payloads = plan_.mode == SessionMode::kFused && count <= kMaxFusedBatch;
  NWC_TRY(begin_batch(tokens));
  const LayerStream::Running running(stream_.get());
  macs_ = 0;
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    if (l < plan_.resident_layers || from_payloads) {
      if (macs_ + layer_macs > most && macs_ != 0) NWC_TRY(next_submission());
      macs_ += layer_macs;
      NWC_TRY(record_layer(l, l < plan_.resident_layers ? &layers_[l] : nullptr, count));
    } else if (plan_.mode == SessionMode::kFused) {
      NWC_TRY(next_submission());
      NWC_TRY(decode_layer(l, stream_buffers_[0]));
      NWC_TRY(record_layer(l, &stream_buffers_[0], count));
    } else {
      NWC_ASSIGN_OR_RETURN(const uint32_t slot, stream_->acquire(l));
      Status status = record_layer(l, &stream_buffers_[slot], count);
      if (status.ok()) status = next_submission();
      stream_->release();
      NWC_TRY(status);
    }
  }
  NWC_TRY(ops_.rms_norm(*batch_, count, x_, norms_, 2 * model_.num_layers * model_.hidden_size, normed_));
  return batch_->submit_and_wait();
}

Status ForwardVulkan::logits_of(uint32_t first, uint32_t count, float* out) {
  const uint32_t n = model_.hidden_size, vocab = model_.vocab_size;
  const DeviceRows hidden{&normed_, first * n, n};
  const auto multiply = [&](const DeviceBuffer& weights, uint32_t begin, uint32_t rows) {
    return ops_.matmul(*batch_, matrix(weights, 0, rows, n), count, hidden, {&logits_, begin, vocab}, false);
  };
  NWC_TRY(batch_->begin());
  batch_->barrier();
  if (plan_.head_resident) {
    NWC_TRY(multiply(model_.tied_embeddings ? embedding_ : head_, 0, vocab));
  } else if (fused_ != nullptr && coded(layout_.head)) {
    const uint64_t offset = uint64_t{first} * n * sizeof(float);
    const VulkanFusedProduct::Product product{
        layout_.head, count, BufferView(&normed_, offset, normed_.size() - offset), n, &logits_, vocab, false};
    NWC_TRY(fused_->record(*batch_, {&product, 1}));
  } else {
    for (uint32_t begin = 0; begin < vocab; begin += sizes_.head_band_rows) {
      const uint32_t rows = std::min(sizes_.head_band_rows, vocab - begin);
      NWC_TRY(decode_rows(layout_.head, begin, uint64_t{begin} + rows, head_band_));
      NWC_TRY(multiply(head_band_, begin, rows));
      if (begin + rows == vocab) break;
      NWC_TRY(batch_->submit_and_wait());
      NWC_TRY(batch_->begin());
      batch_->barrier();
    }
  }
  batch_->barrier();
  const uint64_t bytes = uint64_t{count} * vocab * sizeof(float);
  batch_->copy(logits_, 0, readback_, 0, bytes);
  batch_->barrier();
  NWC_TRY(batch_->submit_and_wait());
  NWC_TRY(readback_.invalidate());
  std::memcpy(out, readback_.mapped().data(), static_cast<size_t>(bytes));
  return {};
}

Status ForwardVulkan::logits(uint32_t first, uint32_t count, float* out) {
  for (uint32_t done = 0; done < count; done += kDeviceLogitRows) {
    const uint32_t rows = std::min(kDeviceLogitRows, count - done);
    NWC_TRY(logits_of(first + done, rows, out + size_t{done} * model_.vocab_size));
  }
  return {};
}

}  // namespace

uint64_t vulkan_fused_bytes(const NwcFile& file, std::span<const size_t> tensors, uint64_t window_bytes) {
  if (tensors.empty()) return 0;
  VulkanOptions options;
  options.max_window_bytes = window_bytes;
  uint64_t sum = VulkanFusedProduct::max_shared_bytes(file, options);
  for (const size_t tensor : tensors) sum += VulkanFusedProduct::max_tensor_bytes(file, tensor, options);
  return sum;
}

Result<std::unique_ptr<Forward>> create_vulkan_forward(const ForwardInputs& inputs, const Progress& progress) {
  DeviceDecoder* decoder = inputs.decoder.on_device();
  if (decoder == nullptr) {
    return Status(StatusCode::kNoDevice,
                  str_cat(inputs.decoder.name(), " has no Vulkan device that the model could run on"));
  }
  const MemoryPlan& plan = inputs.plan;
  const SessionSizes sizes = session_sizes(inputs.file, inputs.layout, inputs.params, plan.context, plan.batch);
  NWC_TRY(LayerOps::check(inputs.layout, decoder->device().info(), sizes, plan.context, plan.batch));
  NWC_TRY(check_layer_ops(decoder->device(), decoder->pipelines(), inputs.params.weight_dtype, inputs.params.kv_dtype));
  auto forward = std::make_unique<ForwardVulkan>(inputs, *decoder);
  NWC_TRY(forward->allocate());
  NWC_TRY(forward->load(progress));
  return std::unique_ptr<Forward>(std::move(forward));
}

}  // namespace nwc
