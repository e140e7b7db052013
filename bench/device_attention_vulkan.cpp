#include "bench/bench_report.h"
#include "bench/device_attention.h"
#include "runtime/decoder/vulkan/device_product.h"
#include "runtime/engine/attention_split.h"
#include "runtime/engine/layer_ops_vulkan.h"

namespace nwc::bench {

struct DeviceAttention::Impl {
  DeviceDecoder& decoder;
  BlockSpec block;
  uint32_t positions, tokens;
  Dtype kv_dtype;
  std::unique_ptr<CommandBatch> batch;
  std::vector<DeviceBuffer> caches{};
  DeviceBuffer qkv{}, out{}, partials{}, copy{};

  bool get(DeviceBuffer* buffer, uint64_t bytes) {
    auto made = DeviceBuffer::create(decoder.device(), std::max<uint64_t>(bytes, 4), MemoryKind::kDevice);
    if (!made.ok()) return false;
    *buffer = std::move(made).value();
    return true;
  }
  template <typename F>
  double timed(const F& record) {
    check(batch->begin());
    check(batch->start_clock());
    for (const DeviceBuffer& cache : caches) {
      record(cache);
      batch->barrier();
    }
    batch->stop_clock();
    const double wall = seconds_of(false, [&] { check(batch->submit_and_wait()); });
    return (batch->seconds() > 0 ? batch->seconds() : wall) / static_cast<double>(caches.size());
  }
};

DeviceAttention::DeviceAttention(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceAttention::~DeviceAttention() = default;

std::unique_ptr<DeviceAttention> DeviceAttention::create(Decoder& decoder, const BlockSpec& block, uint32_t positions,
                                                         uint32_t tokens, uint32_t layers, Dtype kv_dtype) {
  DeviceDecoder* const vulkan = decoder.on_device();
  if (vulkan == nullptr) return nullptr;
  auto batch = CommandBatch::create(vulkan->device(), vulkan->pipelines());
  check(batch.status());
  auto impl = std::make_unique<Impl>(Impl{*vulkan, block, positions, tokens, kv_dtype, std::move(batch).value()});
  impl->caches.resize(layers);
  const uint64_t row = uint64_t{block.q_width()} + 2 * block.kv_width();
  bool enough = impl->get(&impl->qkv, tokens * row * sizeof(float)) &&
                impl->get(&impl->out, uint64_t{tokens} * block.q_width() * sizeof(float)) &&
                impl->get(&impl->partials, attention_partial_bytes(block, positions, tokens));
  const uint64_t cache_bytes = 2 * uint64_t{positions} * block.kv_width() * dtype_size(kv_dtype);
  enough = enough && impl->get(&impl->copy, cache_bytes);
  for (DeviceBuffer& cache : impl->caches) enough = enough && impl->get(&cache, cache_bytes);
  if (!enough) return nullptr;
  check(impl->batch->begin());
  const uint32_t one = kv_dtype == Dtype::kF16 ? 0x3c003c00 : 0x3f800000;
  impl->batch->fill(impl->qkv, impl->qkv.size(), 0x3d800000);  // 1/16
  for (const DeviceBuffer& cache : impl->caches) impl->batch->fill(cache, cache.size(), one);
  check(impl->batch->submit_and_wait());
  return std::unique_ptr<DeviceAttention>(new DeviceAttention(std::move(impl)));
}

double DeviceAttention::attend(bool split) {
  const LayerOps ops(impl_->decoder.device(), impl_->kv_dtype);
  const DeviceBuffer none;
  return impl_->timed([&](const DeviceBuffer& cache) {
    check(ops.attend(*impl_->batch, impl_->block, impl_->tokens, impl_->positions - impl_->tokens, impl_->positions,
                     impl_->qkv, cache, {}, split ? impl_->partials : none, impl_->out));
  });
}

double DeviceAttention::copy() {
  return impl_->timed([&](const DeviceBuffer& cache) { impl_->batch->copy(cache, 0, impl_->copy, 0, cache.size()); });
}

uint32_t DeviceAttention::pieces() const {
  return split_attention(impl_->block, impl_->tokens, impl_->positions - impl_->tokens, impl_->partials.size()).pieces;
}

}  // namespace nwc::bench
