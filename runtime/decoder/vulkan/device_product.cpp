#include "runtime/decoder/vulkan/device_product.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

/// Bytes of partial results at a time, where a band of tiles does not need more nor four whole products less.
constexpr uint64_t kPartialBytes = 4 << 20;

/// Input of one window: its staging memory fits into the decoder's budget, and large tensors take few windows.
uint64_t window_bytes(const VulkanOptions& options) {
  return std::max<uint64_t>(options.max_window_bytes / 4, 1 << 20);
}

uint64_t partial_bytes(const NwcFile& file, const DeviceSynthesis& synthesis) {
  uint64_t most = 0;
  for (const TensorRecord& record : file.tensors()) {
    if (record.storage != Storage::kCoded) continue;
    const TileGrid grid = tile_grid(record);
    const uint64_t row = synthesis.product_bands(grid) * kMaxFusedBatch * sizeof(float);
    const uint64_t products = 4 * (row * std::min(grid.m, kPartialBytes) + kBindingAlignment);
    most = std::max({most, row * grid.tile_rows, std::min(kPartialBytes, products)});
  }
  return align_up(most, kBindingAlignment);
}

Status check_view(const std::string& name, const BufferView& view, uint64_t width, uint64_t stride, uint32_t batch) {
  // Widths are dimensions: below 2^31.
  const uint64_t need = ((batch - 1) * stride + width) * sizeof(float);
  if (view.buffer == nullptr || view.offset % sizeof(float) != 0 || (batch > 1 && stride < width) ||
      stride >= uint64_t{1} << 31 || need > view.size || view.offset > view.buffer->size() ||
      view.buffer->size() - view.offset < view.size) {
    return invalid_argument(str_cat(name, ": a product needs ", need, " bytes from a multiple of 4 on"));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<VulkanFusedProduct>> VulkanFusedProduct::create(DeviceDecoder& decoder) {
  DeviceContext& context = decoder.context();
  const std::lock_guard<std::mutex> lock(context.mutex);
  if (!context.file.codec()) return unsupported("the file has no codec, and so no coded tensors to multiply by");
  std::unique_ptr<VulkanFusedProduct> self(new VulkanFusedProduct(context));
  DeviceSynthesis& synthesis = context.kernels->synthesis();
  NWC_ASSIGN_OR_RETURN(self->slices_, synthesis.create_product(context));
  NWC_ASSIGN_OR_RETURN(self->partials_, DeviceBuffer::create(*context.device, partial_bytes(context.file, synthesis),
                                                             MemoryKind::kDevice));
  return self;
}

uint64_t VulkanFusedProduct::device_bytes() const {
  uint64_t sum = partials_.size() + slices_->device_bytes();
  for (const auto& [tensor, loaded] : loaded_) sum += loaded.payload.size();
  return sum;
}

uint64_t VulkanFusedProduct::max_tensor_bytes(const NwcFile& file, size_t tensor, const VulkanOptions& options) {
  const TensorRecord& record = file.tensors()[tensor];
  if (record.storage != Storage::kCoded || !file.codec()) return 0;
  const TileGrid grid = tile_grid(record);
  const CodecRecord& codec = *file.codec();
  const uint64_t contexts = uint64_t{codec.num_levels} * kNumContexts * codec.num_banks() * 2 * 4 * 2;
  const uint64_t head = contexts + codec.tables.size() * 4 + (2 * kMaxLevels + kChunk * kChunk) * 4 + grid.n * 5;
  // A window that is less than half full has a neighbour that is more, or holds one band.
  const uint64_t windows = std::min(grid.row_bands(), 2 * record.size / (window_bytes(options) / 2) + 1);
  const uint64_t tiles = grid.num_tiles() * (kTileRecordWords * 4 + 4 + sizeof(uint64_t) + sizeof(uint32_t));
  return record.size + tiles + grid.m * 6 + windows * (head + 2 * kBindingAlignment + sizeof(Window));
}

uint64_t VulkanFusedProduct::max_shared_bytes(const NwcFile& file, const VulkanOptions& options) {
  uint64_t tiles = 0, side = 0;
  for (const TensorRecord& record : file.tensors()) {
    if (record.storage != Storage::kCoded) continue;
    const TileGrid grid = tile_grid(record);
    tiles = std::max(tiles, grid.num_tiles());
    side = std::max(side, 5 * (grid.n + grid.m) + grid.num_tiles() * sizeof(CodedTensor::Tile));
  }
  uint64_t shared = window_bytes(options) + 8 * tiles + side;
  if (file.codec()) {
    const auto synthesis = DeviceSynthesis::create_for_estimates(*file.codec());
    shared += partial_bytes(file, *synthesis) + synthesis->product_bytes(file, options);
  }
  return shared;
}

Status VulkanFusedProduct::load(size_t tensor, bool check_crc) {
  const std::lock_guard<std::mutex> lock(context_.mutex);
  const NwcFile& file = context_.file;
  if (tensor >= file.tensors().size() || file.tensors()[tensor].storage != Storage::kCoded) {
    return invalid_argument(str_cat("tensor ", tensor, " is not a coded one"));
  }
  if (is_loaded(tensor)) return {};
  NWC_TRY(slices_->check(file.tensors()[tensor]));
  const std::string& name = file.tensors()[tensor].name;
  if (context_.device->lost()) return Status(StatusCode::kDeviceLost, str_cat(name, ": the Vulkan device was lost"));
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file.load_coded(tensor, check_crc));
  Loaded loaded;
  loaded.contexts = build_contexts(context_.tables, coded, context_.kernels->synthesis().window_numbers());
  loaded.used_tables = loaded.contexts.used.size();
  // A kernel that fails where the CPU does not is given up, as when it decodes.
  Status failure(StatusCode::kDevice, str_cat(name, ": no rANS kernel works: multiply on the CPU"));
  while (const auto variant = context_.self_test->choose(loaded.used_tables, Consumer::kNothing)) {
    Status status = load_with(tensor, coded, *variant, check_crc, &loaded);
    if (status.ok()) {
      loaded.contexts.global.clear();
      loaded.contexts.compact.clear();
      loaded_.emplace(tensor, std::move(loaded));
      return {};
    }
    if (status.code() != StatusCode::kDevice) return status;
    context_.self_test->quarantine(*variant, status.message());
    failure = std::move(status);
  }
  return failure;
}

VulkanFusedProduct::ImportedFile VulkanFusedProduct::import_payloads(const CodedTensor& coded) {
  ImportedFile imported;
  if (!imports_ || !context_.device->info().host_import || coded.tiles.empty()) return imported;
  uint64_t begin = UINT64_MAX, end = 0;
  for (const CodedTensor::Tile& tile : coded.tiles) {
    begin = std::min(begin, tile.offset);
    end = std::max(end, tile.offset + tile.size);
  }
  const uint8_t* view = context_.file.reader().view(begin, end - begin);
  if (view == nullptr) return imported;
  Result<DeviceBuffer> buffer =
      DeviceBuffer::import_host(*context_.device, {view, static_cast<size_t>(end - begin)}, &imported.at);
  if (buffer.ok()) {
    imported.buffer = std::move(buffer).value();
    imported.begin = begin;
  } else {
    imports_ = false;
    context_.log.log(LogLevel::kInfo, str_cat(context_.name, " does not read the file where it is mapped (",
                                              buffer.status().message(), "): it is copied"));
  }
  return imported;
}

Status VulkanFusedProduct::load_with(size_t tensor, const CodedTensor& coded, const RansVariant& variant,
                                     bool check_crc, Loaded* out) {
  const NwcFile& file = context_.file;
  VulkanDevice& device = *context_.device;
  VulkanKernels& kernels = *context_.kernels;
  const TensorRecord& record = file.tensors()[tensor];
  const TileGrid grid = tile_grid(record);
  WindowPath path;
  path.rans = Consumer::kNothing;
  path.values_only = path.direct = true;
  WindowLimits limits = kernels.limits(UINT64_MAX, path, false);
  limits.max_input_bytes = std::min(limits.max_input_bytes, window_bytes(context_.options));
  const ImportedFile imported = import_payloads(coded);
  const bool copy_payloads = imported.buffer.handle() == VK_NULL_HANDLE;
  const uint64_t global_bytes = out->contexts.global.size() * 4;
  uint64_t total = 0, largest = 0, most_tiles = 0;
  out->windows.clear();
  for (const TileWindow& part : plan_windows(grid, coded, 0, grid.m, limits)) {
    if (part.tile_col_end - part.tile_col_begin != grid.tiles_per_row()) {
      return unsupported(str_cat(record.name, ": ", grid.n, " columns are too many for a product on the device"));
    }
    Window window;
    window.layout = layout_window(grid, coded, part, out->contexts);
    window.global_context_at = static_cast<uint32_t>(align_up(window.layout.total_words, 2));  // pairs
    window.layout.total_words = window.global_context_at + out->contexts.global.size();
    window.offset = total;
    const uint64_t bytes = window.layout.total_words * 4;
    total = align_up(total + bytes, kBindingAlignment);
    // Without the payloads, the upload holds the parts before and after them.
    largest = std::max(largest, copy_payloads ? bytes : window.layout.payload_at[0] * uint64_t{4} + global_bytes);
    most_tiles = std::max<uint64_t>(most_tiles, window.layout.tiles.size());
    out->windows.push_back(std::move(window));
  }
  NWC_ASSIGN_OR_RETURN(out->payload, DeviceBuffer::create(device, total, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer upload, DeviceBuffer::create(device, largest, MemoryKind::kUpload));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer status, DeviceBuffer::create(device, most_tiles * 4, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer back, DeviceBuffer::create(device, most_tiles * 4, MemoryKind::kReadback));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device, *context_.pipelines));
  for (const Window& window : out->windows) {
    const WindowLayout& layout = window.layout;
    const uint64_t bytes = layout.total_words * 4;
    const uint64_t global_at =
        copy_payloads ? window.global_context_at * uint64_t{4} : layout.payload_at[0] * uint64_t{4};
    const MutableBytes input = upload.mapped().first(static_cast<size_t>(global_at + global_bytes));
    size_t bad = 0;
    Status packed = pack_window(file, tensor, coded, layout, out->contexts, true, check_crc, context_.runner, input,
                                &bad, copy_payloads);
    if (!packed.ok()) {
      for (size_t t = 0; t < bad; ++t) NWC_TRY(check_tile(file, context_.tables, tensor, coded, layout.tiles[t]));
      return packed;
    }
    std::memcpy(input.data() + global_at, out->contexts.global.data(), global_bytes);
    NWC_TRY(upload.flush());
    NWC_TRY(batch->begin());
    batch->copy(upload, 0, out->payload, window.offset, copy_payloads ? bytes : global_at);
    if (!copy_payloads) {
      batch->copy(upload, global_at, out->payload, window.offset + window.global_context_at * uint64_t{4},
                  global_bytes);
      for (size_t i = 0; i < layout.tiles.size(); ++i) {
        const CodedTensor::Tile& tile = coded.tiles[layout.tiles[i]];
        batch->copy(imported.buffer, tile.offset - imported.begin + imported.at, out->payload,
                    window.offset + layout.payload_at[i] * uint64_t{4}, tile.size);
      }
    }
    batch->fill(status, layout.tiles.size() * 4, kTileUntouched);
    batch->barrier();
    RansPush push = VulkanKernels::rans_push(layout, out->contexts);
    if (variant.shared_tables == 0) push.context_at = window.global_context_at / 2;
    NWC_TRY(batch->dispatch(kernels.rans_pipeline(variant),
                            {&kernels.tables(), {&out->payload, window.offset, bytes}, &status, &status}, push,
                            kernels.rans_groups(variant, layout.tiles.size())));
    batch->barrier();
    batch->copy(status, 0, back, 0, layout.tiles.size() * 4);
    batch->barrier();
    NWC_TRY(batch->submit_and_wait());
    NWC_TRY(back.invalidate());
    for (size_t t = 0; t < layout.tiles.size(); ++t) {
      const uint32_t word = load_le<uint32_t>(back.mapped().data() + 4 * t);
      if (word == static_cast<uint32_t>(TileStatus::kOk)) continue;
      NWC_TRY(check_tile(file, context_.tables, tensor, coded, layout.tiles[t]));
      return kernel_failure(record, layout.tiles[t], word);
    }
  }
  return {};
}

Status VulkanFusedProduct::check_product(const Product& product) const {
  const NwcFile& file = context_.file;
  if (!is_loaded(product.tensor)) return invalid_argument(str_cat("tensor ", product.tensor, " is not loaded"));
  const TensorRecord& record = file.tensors()[product.tensor];
  if (product.batch == 0 || product.batch > kMaxFusedBatch) {
    return invalid_argument(
        str_cat(record.name, ": products of ", product.batch, " vectors, 1 to ", kMaxFusedBatch, " are possible"));
  }
  NWC_TRY(check_view(record.name, product.x, record.cols(), product.x_stride, product.batch));
  return check_view(record.name, product.y, record.rows(), product.y_stride, product.batch);
}

Status VulkanFusedProduct::record(CommandBatch& batch, std::span<const Product> products) {
  const std::lock_guard<std::mutex> lock(context_.mutex);
  for (const Product& product : products) NWC_TRY(check_product(product));
  // The caller may have thrown away a batch: its slices are forgotten.
  reductions_.clear();
  partials_used_ = 0;
  slices_->reset();
  batch.barrier();
  for (const Product& product : products) NWC_TRY(record_product(batch, product));
  return reduce(batch);
}

Status VulkanFusedProduct::record_product(CommandBatch& batch, const Product& product) {
  const NwcFile& file = context_.file;
  VulkanKernels& kernels = *context_.kernels;
  const Loaded& loaded = loaded_.at(product.tensor);
  const TileGrid grid = tile_grid(file.tensors()[product.tensor]);
  const auto variant = slices_->choose(*context_.self_test, loaded.used_tables, product.batch);
  if (!variant) {
    return Status(StatusCode::kDevice,
                  str_cat(file.tensors()[product.tensor].name, ": no product kernel works: multiply on the CPU"));
  }
  const FloatView y(product.y, context_.device->info().offset_alignment);
  const uint64_t bands = kernels.synthesis().product_bands(grid);
  const uint64_t room = partials_.size();
  const uint64_t rows_in_room = room / (bands * product.batch * sizeof(float)) / grid.tile_rows * grid.tile_rows;
  const uint64_t most_rows = std::min(rows_in_room, slices_->most_rows(grid));
  for (const Window& window : loaded.windows) {
    const WindowLayout& layout = window.layout;
    const BufferView input{&loaded.payload, window.offset, layout.total_words * 4};
    // Bands of tiles whose partial results have room at a time.
    for (uint64_t row = 0; row < layout.rows; row += most_rows) {
      const uint64_t rows = std::min(most_rows, layout.rows - row), numbers = bands * product.batch * rows;
      if (partials_used_ + numbers * sizeof(float) > room) NWC_TRY(reduce(batch));
      RansPush push = VulkanKernels::rans_push(layout, loaded.contexts);
      if (variant->shared_tables == 0) push.context_at = window.global_context_at / 2;
      push.num_used = static_cast<uint32_t>(loaded.used_tables);
      push.tile_at += static_cast<uint32_t>(row / grid.tile_rows * grid.tiles_per_row() * kTileRecordWords);
      push.num_tiles = static_cast<uint32_t>(ceil_div(rows, grid.tile_rows) * grid.tiles_per_row());
      push.row_begin = static_cast<uint32_t>(row);
      push.row_end = static_cast<uint32_t>(row + rows);
      const BufferView partials{&partials_, partials_used_, align_up(numbers * sizeof(float), kBindingAlignment)};
      NWC_TRY(slices_->add(batch, {*variant, push, grid, input, product.x, product.x_stride, product.batch, partials}));
      const uint32_t row_scale_at =
          layout.row_scale_at == kNoRowScale ? kNoRowScale : layout.row_scale_at + push.row_begin;
      const ReducePush sums{.num_bands = static_cast<uint32_t>(bands),
                            .num_vectors = product.batch,
                            .num_rows = static_cast<uint32_t>(rows),
                            .row_scale_at = row_scale_at,
                            .y_at = y.at + static_cast<uint32_t>(layout.row + row),
                            .y_stride = static_cast<uint32_t>(product.y_stride),
                            .accumulate = product.accumulate ? 1u : 0u};
      reductions_.push_back({partials, input, y.bound, sums});
      partials_used_ += partials.size;
    }
  }
  return {};
}

Status VulkanFusedProduct::reduce(CommandBatch& batch) {
  NWC_TRY(slices_->finish(batch));
  batch.barrier();
  const std::vector<Reduction> reductions = std::move(reductions_);
  reductions_.clear();
  partials_used_ = 0;
  for (const Reduction& r : reductions) NWC_TRY(dispatch_reduce(batch, r.sums, r.partials, r.window, r.y));
  batch.barrier();
  return {};
}

}  // namespace nwc
