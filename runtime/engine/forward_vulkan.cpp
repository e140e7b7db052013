#include "runtime/engine/forward_vulkan.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/base/str_cat.h"
#include "runtime/engine/kernels_cpu.h"
#include "runtime/engine/layer_ops_self_test_vulkan.h"

namespace nwc {
namespace {

/// Multiply-accumulates of one submission: well below the second or two after which some systems reset a device.
constexpr uint64_t kMaxSubmissionMacs = 200'000'000'000;
constexpr uint64_t kMaxSubmissionMacsSoftware = 10'000'000'000;

}  // namespace

uint64_t ForwardVulkan::most_macs() const {
  return device_.info().quirks.software ? kMaxSubmissionMacsSoftware : kMaxSubmissionMacs;
}

Status ForwardVulkan::get(DeviceBuffer& buffer, uint64_t bytes, MemoryKind kind) {
  NWC_ASSIGN_OR_RETURN(buffer, DeviceBuffer::create(device_, bytes, kind));
  memory_.bytes += buffer.size();
  return {};
}

Status ForwardVulkan::allocate(const ForwardInputs& in) {
  sizes_ = session_sizes(file_, layout_, params_, *plan_.held, plan_.context, plan_.batch);
  const auto on_device = [this](DeviceBuffer& buffer, uint64_t bytes) {
    return get(buffer, bytes, MemoryKind::kDevice);
  };
  NWC_TRY(on_device(vectors_, sizes_.vectors));
  if (layout_.positions != kNoTensor) NWC_TRY(on_device(positions_, sizes_.positions));
  layers_ = std::vector<DeviceBuffer>(plan_.resident_layers);
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    NWC_TRY(on_device(layers_[l], weights_.layer_bytes(l)));
  }
  if (streamed_layers(model_, plan_) != 0) {
    for (DeviceBuffer& buffer : stream_buffers_) NWC_TRY(on_device(buffer, sizes_.layer));
  }
  if (fused_layers(model_, plan_) != 0) NWC_TRY(on_device(stream_buffers_[0], sizes_.layer));
  const bool has_embedding = layout_.has_embedding();
  if (has_embedding && plan_.embedding_resident) NWC_TRY(on_device(embedding_, sizes_.embedding));
  if (has_embedding && !plan_.embedding_resident)
    NWC_TRY(row_.allocate(sizes_.embedding_row, &memory_, "an embedding row"));
  if (plan_.head_resident && layout_.separate_head()) NWC_TRY(on_device(head_, sizes_.head));
  if (layout_.has_head() && !plan_.head_resident) NWC_TRY(on_device(head_band_, sizes_.head_band));
  cache_ = std::vector<DeviceBuffer>(model_.num_layers);
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    NWC_TRY(on_device(cache_[l], device_cache_bytes(layout_.block(l), plan_.context, plan_.batch, params_.kv_dtype)));
  }
  for (DeviceBuffer* buffer : {&x_, &normed_}) NWC_TRY(on_device(*buffer, sizes_.hidden));
  if (layout_.uses(Slot::kBranch)) NWC_TRY(on_device(branch_, sizes_.hidden));
  NWC_TRY(on_device(qkv_, sizes_.qkv));
  NWC_TRY(on_device(attention_, sizes_.attention));
  if (sizes_.partials != 0) NWC_TRY(on_device(partials_, sizes_.partials));
  if (sizes_.gate_up != 0) {  // not without a shared expert
    NWC_TRY(on_device(gate_up_, sizes_.gate_up));
    NWC_TRY(on_device(activated_, sizes_.activated));
  }
  NWC_TRY(on_device(inputs_, sizes_.inputs));
  NWC_TRY(on_device(logits_, sizes_.logits));
  NWC_TRY(get(upload_, sizes_.inputs, MemoryKind::kUpload));
  NWC_TRY(get(readback_, sizes_.logits, MemoryKind::kReadback));
  NWC_ASSIGN_OR_RETURN(batch_, CommandBatch::create(device_, decoder_.pipelines()));
  if (plan_.num_experts == 0) return {};
  experts_ = std::make_unique<ExpertsVulkan>(in, host_source_, device_, ops_, weights_, vectors_, most_macs());
  return experts_->allocate(sizes_, &memory_);
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
    const uint64_t bytes = uint64_t{layout_.vector_elements} * sizeof(float);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer staging, DeviceBuffer::create(device_, bytes, MemoryKind::kUpload));
    NWC_TRY(host_source_.decode_vectors(layout_.vectors, reinterpret_cast<float*>(staging.mapped().data())));
    if (layout_.head_bias_at != kNoVector) {
      const float* bias = reinterpret_cast<const float*>(staging.mapped().data()) + layout_.head_bias_at;
      head_bias_.assign(bias, bias + model_.vocab_size);
    }
    NWC_TRY(staging.flush());
    NWC_TRY(batch_->begin());
    batch_->copy(staging, 0, vectors_, 0, bytes);
    batch_->barrier();
    NWC_TRY(batch_->submit_and_wait());
  }
  if (layout_.positions != kNoTensor)
    NWC_TRY(weights_.decode_rows(layout_.positions, 0, model_.ends.position_rows, positions_));
  if (embedding_.size() != 0) NWC_TRY(weights_.decode_embedding(embedding_));
  if (head_.size() != 0) NWC_TRY(weights_.decode_head(head_));
  NWC_TRY(report(1));
  for (uint32_t l = 0; l < plan_.resident_layers; ++l) {
    NWC_TRY(weights_.decode_layer(l, layers_[l]));
    if (plan_.num_experts != 0 && plan_.expert_slots == plan_.num_experts) NWC_TRY(experts_->load(l));
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
                                                       NWC_TRY(weights_.decode_layer(layer, stream_buffers_[slot]));
                                                       return true;
                                                     }));
    if (experts_ != nullptr) experts_->set_stream(stream_.get());
  }
  return {};
}

// Rows of an embedding that is not resident, to x.
Status ForwardVulkan::embed_on_host(std::span<const uint32_t> tokens) {
  const uint32_t n = model_.hidden_size;
  float* x = reinterpret_cast<float*>(upload_.mapped().data());
  const MutableBytes row(row_.data(), size_t{n} * dtype_size(weights_.float_type()));
  for (size_t t = 0; t < tokens.size(); ++t) {
    const size_t at = static_cast<size_t>(std::find(tokens.begin(), tokens.end(), tokens[t]) - tokens.begin());
    if (at < t) {
      std::copy_n(x + at * n, n, x + t * n);
      continue;
    }
    NWC_TRY(host_source_.decode_rows(layout_.embedding, tokens[t], uint64_t{tokens[t]} + 1, row));
    const auto halves = [&](uint32_t i) { return reinterpret_cast<const uint16_t*>(row.data())[i]; };
    if (weights_.float_type() == Dtype::kF32) {
      std::memcpy(x + t * n, row.data(), row.size());
    } else {
      const bool f16 = weights_.float_type() == Dtype::kF16;
      for (uint32_t i = 0; i < n; ++i) x[t * n + i] = f16 ? f16_to_f32(halves(i)) : bf16_to_f32(halves(i));
    }
  }
  if (model_.ends.embedding_scale != 1) {
    for (size_t i = 0; i < tokens.size() * n; ++i) x[i] *= model_.ends.embedding_scale;
  }
  return upload(x_, tokens.size() * n * sizeof(float));
}

// Uploads ids and angles; begins the batch's first submission with the embedding.
Status ForwardVulkan::begin_batch(std::span<const uint32_t> tokens, uint32_t count) {
  if (!tokens.empty() && !plan_.embedding_resident) NWC_TRY(embed_on_host(tokens));
  uint8_t* to = upload_.mapped().data();
  // Ids and positions [batch] each, then the angles.
  std::memcpy(to, tokens.data(), tokens.size_bytes());
  uint32_t* positions = reinterpret_cast<uint32_t*>(to) + plan_.batch;
  float* angles = reinterpret_cast<float*>(to) + angles_at();
  for (uint32_t t = 0; t < count; ++t) {
    positions[t] = position_ + t;
    rotary_.angles(position_ + t, angles + size_t{t} * rotary_.width());
  }
  NWC_TRY(upload_.flush());
  NWC_TRY(batch_->begin());
  batch_->barrier();
  batch_->copy(upload_, 0, inputs_, 0, (uint64_t{angles_at()} + uint64_t{count} * rotary_.width()) * sizeof(float));
  batch_->barrier();
  const uint32_t n = model_.hidden_size, rows = layout_.positions == kNoTensor ? 0 : model_.ends.position_rows;
  if (!tokens.empty() && plan_.embedding_resident) {
    NWC_TRY(weights_.embed(*batch_, embedding_, inputs_, count, x_));
    batch_->barrier();
  }
  if (rows != 0) {
    NWC_TRY(ops_.embed(*batch_, weights_.rows(positions_, rows, n), inputs_, plan_.batch, count, x_, 1, true));
    batch_->barrier();
  }
  if (layout_.token_types_at != kNoVector) {  // the first row: every token is of type 0
    NWC_TRY(ops_.add_rows(*batch_, count, n, 1, {&x_, 0, n}, {&vectors_, layout_.token_types_at, 0}));
    batch_->barrier();
  }
  if (!model_.ends.encoder.embedding_norm) return {};
  NWC_TRY(ops_.norm(*batch_, norm_of_ends(layout_.embedding_norm_at, layout_.embedding_norm_bias_at), count,
                    {&x_, 0, n}, vectors_, {&x_, 0, n}));
  batch_->barrier();
  return {};
}

std::vector<DeviceCacheLayer> ForwardVulkan::cache_layers() const {
  std::vector<DeviceCacheLayer> out;
  for (uint32_t l = 0; l < model_.num_layers; ++l) out.push_back({&cache_[l], kept(l)});
  return out;
}

Status ForwardVulkan::save_cache(const KeptCache& places, MutableBytes out) {
  return save_device_cache(cache_layers(), places, *batch_, readback_, out);
}

Status ForwardVulkan::load_cache(const KeptCache& places, Bytes in) {
  return load_device_cache(cache_layers(), places, *batch_, upload_, in);
}

bool ForwardVulkan::can_go_back(size_t from, size_t to) const {
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    if (oldest_seen(layout_.block(l), to) + kept(l) < from) return false;
  }
  return true;
}

Status ForwardVulkan::run(std::span<const uint32_t> tokens, uint32_t position) {
  position_ = position;
  return run_layers(tokens, static_cast<uint32_t>(tokens.size()));
}

Status ForwardVulkan::run_embedded(std::span<const float> x) {
  position_ = 0;
  std::memcpy(upload_.mapped().data(), x.data(), x.size_bytes());
  NWC_TRY(upload(x_, x.size_bytes()));
  return run_layers({}, static_cast<uint32_t>(x.size() / model_.hidden_size));
}

Status ForwardVulkan::hidden(uint32_t first, uint32_t count, float* out) {
  const uint64_t row = uint64_t{model_.hidden_size} * sizeof(float);
  const uint32_t most = static_cast<uint32_t>(std::max<uint64_t>(1, readback_.size() / row));
  for (uint32_t done = 0; done < count; done += most) {
    const uint64_t bytes = std::min(most, count - done) * row;
    NWC_TRY(batch_->begin());
    batch_->barrier();
    batch_->copy(normed_, (first + done) * row, readback_, 0, bytes);
    batch_->barrier();
    NWC_TRY(batch_->submit_and_wait());
    NWC_TRY(readback_.invalidate());
    std::memcpy(reinterpret_cast<uint8_t*>(out) + done * row, readback_.mapped().data(), static_cast<size_t>(bytes));
  }
  return {};
}

Status ForwardVulkan::run_layers(std::span<const uint32_t> tokens, uint32_t count) {
  const uint64_t most = most_macs();
  const uint64_t layer_macs = layout_.max_layer_elements() * count;
  const bool from_payloads = plan_.mode == SessionMode::kFused && count <= kMaxFusedBatch;
  NWC_TRY(begin_batch(tokens, count));
  const LayerStream::Running running(stream_.get());
  const ExpertReads::Running reading(experts_ == nullptr ? nullptr : experts_->reads());
  macs_ = 0;
  for (uint32_t l = 0; l < model_.num_layers; ++l) {
    if (l < plan_.resident_layers || from_payloads) {
      if (macs_ + layer_macs > most && macs_ != 0) NWC_TRY(next_submission());
      macs_ += layer_macs;
      NWC_TRY(record_layer(l, l < plan_.resident_layers ? &layers_[l] : nullptr, count));
    } else if (plan_.mode == SessionMode::kFused) {
      NWC_TRY(next_submission());
      NWC_TRY(weights_.decode_layer(l, stream_buffers_[0]));
      NWC_TRY(record_layer(l, &stream_buffers_[0], count));
    } else {
      NWC_ASSIGN_OR_RETURN(const uint32_t slot, stream_->acquire(l));
      Status status = record_layer(l, &stream_buffers_[slot], count);
      if (status.ok()) status = next_submission();
      stream_->release();
      NWC_TRY(status);
    }
  }
  const uint32_t n = model_.hidden_size;
  if (layout_.norms_states()) {
    const LayerOps::Norm norm = norm_of_ends(layout_.final_norm_at, layout_.final_norm_bias_at);
    NWC_TRY(ops_.norm(*batch_, norm, count, {&x_, 0, n}, vectors_, {&normed_, 0, n}));
  } else {
    batch_->copy(x_, 0, normed_, 0, uint64_t{count} * n * sizeof(float));
  }
  return batch_->submit_and_wait();
}

Status ForwardVulkan::logits_of(uint32_t first, uint32_t count, float* out) {
  const uint32_t n = model_.hidden_size, vocab = model_.vocab_size;
  const DeviceRows hidden{&normed_, first * n, n};
  NWC_TRY(batch_->begin());
  batch_->barrier();
  if (plan_.head_resident) {
    const DeviceBuffer& output = model_.tied_embeddings ? embedding_ : head_;
    NWC_TRY(weights_.multiply_output(*batch_, output, count, hidden, {&logits_, 0, vocab}));
  } else if (fused_ != nullptr && coded(layout_.head)) {
    const uint64_t offset = uint64_t{first} * n * sizeof(float);
    const VulkanFusedProduct::Product product{
        layout_.head, count, BufferView(&normed_, offset, normed_.size() - offset), n, &logits_, vocab, false};
    NWC_TRY(fused_->record(*batch_, {&product, 1}));
  } else {
    for (uint32_t begin = 0; begin < vocab; begin += sizes_.head_band_rows) {
      const uint32_t rows = std::min(sizes_.head_band_rows, vocab - begin);
      NWC_TRY(weights_.decode_rows(layout_.head, begin, uint64_t{begin} + rows, head_band_));
      NWC_TRY(ops_.matmul(*batch_, weights_.rows(head_band_, rows, n), count, hidden, {&logits_, begin, vocab}, false));
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
  for (size_t i = 0; i < size_t{count} * vocab && !head_bias_.empty(); ++i) out[i] += head_bias_[i % vocab];
  cap_logits(model_.ends.logit_scale, model_.ends.logit_softcap, out, size_t{count} * vocab);
  return {};
}

Status ForwardVulkan::logits(uint32_t first, uint32_t count, float* out) {
  for (uint32_t done = 0; done < count; done += kDeviceLogitRows) {
    const uint32_t rows = std::min(kDeviceLogitRows, count - done);
    NWC_TRY(logits_of(first + done, rows, out + size_t{done} * model_.vocab_size));
  }
  return {};
}

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
  const SessionSizes sizes =
      session_sizes(inputs.file, inputs.layout, inputs.params, *plan.held, plan.context, plan.batch);
  NWC_TRY(LayerOps::check(inputs.layout, decoder->device().info(), sizes, plan.context, plan.batch));
  NWC_TRY(check_layer_ops(decoder->device(), decoder->pipelines(), inputs.layout.model.blocks, plan.held->row_dtype(),
                          inputs.params.kv_dtype));
  IntegerProducts products = IntegerProducts::kFloats;
  if (plan.held->any_integers()) {
    NWC_ASSIGN_OR_RETURN(products,
                         choose_integer_products(decoder->device(), decoder->pipelines(), plan.held->any_that(false),
                                                 plan.held->any_that(true), plan.requantized));
  }
  auto forward = std::make_unique<ForwardVulkan>(inputs, *decoder, products);
  NWC_TRY(forward->allocate(inputs));
  NWC_TRY(forward->load(progress));
  return std::unique_ptr<Forward>(std::move(forward));
}

}  // namespace nwc
