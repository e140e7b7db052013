#include "bench/device_layer.h"
#include "runtime/decoder/vulkan/device_product.h"
#include "runtime/engine/layer_ops_vulkan.h"

namespace nwc::bench {
namespace {

template <typename T>
T value_of(Result<T> result) {
  check(result.status());
  return std::move(result).value();
}

/// Symbols of synthetic layers are a little wider than their tables say.
constexpr double kOutlierRoom = 16;

}  // namespace

struct DeviceLayer::Impl {
  const NwcFile& file;
  DeviceDecoder& decoder;
  uint32_t rows, cols;
  DeviceBuffer weights, copy, x, y;
  std::unique_ptr<CommandBatch> batch;
  std::unique_ptr<VulkanFusedProduct> fused{};
  struct Held {
    IntegerForm form{};
    DeviceBuffer buffer{};
  };
  Held q8{}, packed{};
  Held& held(IntegerWeights which) { return which == IntegerWeights::kQ8 ? q8 : packed; }

  template <typename F>
  double timed(const F& record) {
    check(batch->begin());
    check(batch->start_clock());
    record();
    batch->stop_clock();
    check(batch->submit_and_wait());
    return batch->seconds();
  }
};

DeviceLayer::DeviceLayer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceLayer::~DeviceLayer() = default;

std::unique_ptr<DeviceLayer> DeviceLayer::create(const SyntheticModel& m, Decoder& decoder) {
  DeviceDecoder* const vulkan = decoder.on_device();
  if (vulkan == nullptr) return nullptr;
  const TensorRecord& tensor = m.file->tensors()[0];
  const uint32_t rows = static_cast<uint32_t>(tensor.rows()), cols = static_cast<uint32_t>(tensor.cols());
  std::vector<DeviceBuffer> buffers;
  for (const uint64_t bytes : {2 * tensor.num_elements(), 2 * tensor.num_elements(), uint64_t{4} * cols * kMostVectors,
                               uint64_t{4} * rows * kMostVectors}) {
    auto buffer = DeviceBuffer::create(vulkan->device(), bytes, MemoryKind::kDevice);
    if (!buffer.ok()) return nullptr;
    buffers.push_back(std::move(buffer).value());
  }
  auto impl = std::make_unique<Impl>(Impl{*m.file, *vulkan, rows, cols, std::move(buffers[0]), std::move(buffers[1]),
                                          std::move(buffers[2]), std::move(buffers[3]),
                                          value_of(CommandBatch::create(vulkan->device(), vulkan->pipelines()))});
  impl->timed([&] {
    for (DeviceBuffer* b : {&impl->weights, &impl->copy, &impl->x, &impl->y})
      impl->batch->fill(*b, b->size(), 0x3c003c00);  // 1 in f16, 0.008 in f32
  });
  auto fused = VulkanFusedProduct::create(*vulkan);
  if (fused.ok()) {
    impl->fused = std::move(fused).value();
    check(impl->fused->load(0));
  } else if (fused.status().code() != StatusCode::kUnsupported) {
    check(fused.status());
  }
  vulkan->set_timed(true);
  return std::unique_ptr<DeviceLayer>(new DeviceLayer(std::move(impl)));
}

double DeviceLayer::decode() {
  DeviceDecodeRequest request;
  request.row_end = impl_->rows;
  request.out = &impl_->weights;
  check(impl_->decoder.decode_to_device({&request, 1}));
  return impl_->decoder.last_device_seconds();
}

double DeviceLayer::copy() {
  return impl_->timed([&] { impl_->batch->copy(impl_->weights, 0, impl_->copy, 0, impl_->weights.size()); });
}

double DeviceLayer::product(uint32_t vectors) {
  const LayerOps ops(impl_->decoder.device(), Dtype::kF16);
  return impl_->timed([&] {
    check(ops.matmul(*impl_->batch, {&impl_->weights, 0, Dtype::kF16, impl_->rows, impl_->cols}, vectors,
                     {&impl_->x, 0, impl_->cols}, {&impl_->y, 0, impl_->rows}, false));
  });
}

double DeviceLayer::fused(uint32_t vectors) {
  const VulkanFusedProduct::Product job{0, vectors, &impl_->x, impl_->cols, &impl_->y, impl_->rows, false};
  return impl_->timed([&] { check(impl_->fused->record(*impl_->batch, {&job, 1})); });
}

bool DeviceLayer::has_integers() const { return why_not_integers(*impl_->file.codec()) == nullptr; }

double DeviceLayer::decode_integers(IntegerWeights which) {
  Impl::Held& held = impl_->held(which);
  if (held.buffer.size() == 0) {
    held.form = value_of(IntegerForms(impl_->file).choose(0, which, false, kOutlierRoom));
    held.buffer =
        value_of(DeviceBuffer::create(impl_->decoder.device(), DeviceForm(held.form).bytes, MemoryKind::kDevice));
  }
  const DeviceIntegerRequest request{0, &held.form, &held.buffer};
  check(impl_->decoder.integers_to_device({&request, 1}));
  return impl_->decoder.last_device_seconds();
}

double DeviceLayer::integer_product(IntegerWeights which, uint32_t vectors, bool dots) {
  const LayerOps ops(impl_->decoder.device(), Dtype::kF16, dots ? IntegerProducts::kDots : IntegerProducts::kFloats);
  const Impl::Held& held = impl_->held(which);
  return impl_->timed([&] {
    check(ops.matmul(*impl_->batch, IntegerWeightsView{&held.buffer, 0, &held.form}, vectors,
                     {&impl_->x, 0, impl_->cols}, {&impl_->y, 0, impl_->rows}, false));
  });
}

bool DeviceLayer::has_dots() const { return impl_->decoder.device().info().dot_product; }

bool DeviceLayer::can_fuse() const { return impl_->fused != nullptr; }

}  // namespace nwc::bench
