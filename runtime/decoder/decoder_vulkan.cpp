#include "runtime/decoder/decoder_vulkan.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/codec/tile_decode.h"
#include "runtime/decoder/raw_tensor.h"

namespace nwc {
namespace {

uint64_t count_tiles(const TileWindow& w) { return (w.band_end - w.band_begin) * (w.tile_col_end - w.tile_col_begin); }

/// Rows of `width` elements from a packed window to their place in a matrix of `stride` columns.
void copy_rows(Bytes from, uint64_t rows, uint64_t width, uint64_t stride, size_t element, uint8_t* to) {
  if (width == stride) {
    std::memcpy(to, from.data(), static_cast<size_t>(rows * width) * element);
    return;
  }
  for (uint64_t r = 0; r < rows; ++r) {
    std::memcpy(to + static_cast<size_t>(r * stride) * element, from.data() + static_cast<size_t>(r * width) * element,
                static_cast<size_t>(width) * element);
  }
}

}  // namespace

Result<std::unique_ptr<VulkanDecoder>> VulkanDecoder::create(const NwcFile& file, Runner& runner,
                                                             const VulkanOptions& options, const Logger& log) {
  std::unique_ptr<VulkanDecoder> self(new VulkanDecoder(file, runner, options, log));
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanInstance> instance, VulkanInstance::create(options.validation, log));
  NWC_ASSIGN_OR_RETURN(const DeviceInfo info,
                       choose_device(*instance, {options.device_index, options.device_name, options.software_renderers,
                                                 options.disabled_features}));
  NWC_ASSIGN_OR_RETURN(self->device_, VulkanDevice::create(std::move(instance), info));
  self->device_->set_allocation_limit(options.allocation_limit);
  NWC_ASSIGN_OR_RETURN(self->pipelines_, PipelineCache::create(*self->device_));
  self->name_ = str_cat("vulkan ", info.name);
  if (!file.codec()) return self;

  const CodecRecord& codec = *file.codec();
  self->tables_ = build_decode_tables(codec);
  NWC_ASSIGN_OR_RETURN(self->kernels_,
                       VulkanKernels::create(*self->device_, *self->pipelines_, codec, self->tables_,
                                             VulkanSelfTest::extra_tables(), options.tiles_per_workgroup));
  self->self_test_ = std::make_unique<VulkanSelfTest>(
      *self->kernels_, codec, static_cast<uint32_t>(self->tables_.alias.size()), log, options.quarantine_mask);
  const std::optional<RansVariant> variant = self->choose_variant(self->tables_.alias.size());
  if (!variant) {
    return Status(StatusCode::kNoDevice,
                  str_cat(info.name, ": no rANS kernel decodes the known tiles rightly: decode on the CPU"));
  }
  NWC_TRY(self->self_test_->check_synthesis(*variant));
  NWC_TRY(self->self_test_->check_conversion());
  log.log(LogLevel::kInfo, str_cat(self->name_, " (", info.driver, "), subgroups of ", info.subgroup_size,
                                   ", features: ", feature_names(info.features()), ", rANS kernel: ", variant->name()));
  return self;
}

std::optional<RansVariant> VulkanDecoder::choose_variant(size_t used_tables) {
  const uint32_t shared = kernels_->shared_tables(used_tables);
  for (const bool ballot : {true, false}) {
    if (ballot && (!device_->info().ballot || options_.variant == VulkanOptions::Variant::kShared)) continue;
    if (!ballot && options_.variant == VulkanOptions::Variant::kBallot) continue;
    for (const uint32_t tables : {shared, 0u}) {
      const RansVariant variant{ballot, tables};
      if (self_test_->works(variant)) return variant;
      if (tables == 0) break;
    }
  }
  return std::nullopt;
}

Status VulkanDecoder::decode(const DecodeRequest& request) {
  NWC_TRY(check_request(file_, request));
  const TensorRecord& record = file_.tensors()[request.tensor];
  if (record.storage != Storage::kCoded) return decode_raw_rows(file_, request);
  Job job;
  job.tensor = request.tensor;
  job.row_begin = request.row_begin;
  job.row_end = request.row_end;
  job.dtype = request.dtype;
  job.check_crc = request.check_crc;
  job.progress = request.progress;
  job.out = request.out.data();
  return run_job(job);
}

Status VulkanDecoder::decode_values(size_t tensor, std::span<int16_t> out) {
  if (tensor >= file_.tensors().size() || file_.tensors()[tensor].storage != Storage::kCoded) {
    return invalid_argument(str_cat("tensor ", tensor, " is not a coded one"));
  }
  const TensorRecord& record = file_.tensors()[tensor];
  const uint64_t need = ceil_div(record.rows(), kChunk) * record.cols() * kChunk;
  if (out.size() < need) {
    return Status(StatusCode::kBufferTooSmall, str_cat(record.name, ": needs room for ", need, " values"));
  }
  Job job;
  job.tensor = tensor;
  job.row_end = record.rows();
  job.values_only = true;
  job.out = reinterpret_cast<uint8_t*>(out.data());
  return run_job(job);
}

Status VulkanDecoder::run_job(const Job& job) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const TensorRecord& record = file_.tensors()[job.tensor];
  if (kernels_ == nullptr) return corrupt(str_cat(record.name, " is coded, but the file has no codec"));
  if (device_->lost()) {
    return Status(StatusCode::kDeviceLost, str_cat(record.name, ": the Vulkan device was lost: decode on the CPU"));
  }
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file_.load_coded(job.tensor, job.check_crc));
  const TensorContexts contexts = build_contexts(tables_, coded.level, coded.row_class);
  // A kernel that fails where the CPU does not is given up, and the next one tries the same job from its beginning.
  Status failure(StatusCode::kDevice, str_cat(record.name, ": no rANS kernel works: decode on the CPU"));
  while (const std::optional<RansVariant> variant = choose_variant(contexts.used.size())) {
    Status status = run_with(job, coded, contexts, *variant);
    if (status.code() != StatusCode::kDevice) return status;
    self_test_->quarantine(*variant, status.message());
    failure = std::move(status);
  }
  return failure;
}

Status VulkanDecoder::run_with(const Job& job, const CodedTensor& coded, const TensorContexts& contexts,
                               const RansVariant& variant) {
  const TensorRecord& record = file_.tensors()[job.tensor];
  WindowLimits limits = kernels_->limits(options_.max_window_bytes);
  for (;;) {
    Status status = run_windows(job, coded, contexts, variant, limits);
    if (status.code() != StatusCode::kOutOfMemory) return status;
    // A device may refuse what its limits promise. The least is a tile.
    const uint64_t least = kMaxTileWeights;
    if (limits.max_weights <= least) return status.with_context(record.name);
    limits.max_weights = std::max(least, limits.max_weights / 2);
    limits.max_input_bytes = std::max<uint64_t>(least * 4, limits.max_input_bytes / 2);
    log_.log(LogLevel::kInfo,
             str_cat(record.name, ": ", status.message(), "; trying windows of ", limits.max_weights, " weights"));
  }
}

Status VulkanDecoder::run_windows(const Job& job, const CodedTensor& coded, const TensorContexts& contexts,
                                  const RansVariant& variant, const WindowLimits& limits) {
  const TensorRecord& record = file_.tensors()[job.tensor];
  const TileGrid grid = tile_grid(record);
  const std::vector<TileWindow> windows = plan_windows(grid, coded, job.row_begin, job.row_end, limits);
  uint64_t done = 0, total = 0;
  for (const TileWindow& window : windows) total += count_tiles(window);
  for (const TileWindow& window : windows) {
    const WindowLayout layout = layout_window(grid, coded, window, contexts);
    NWC_TRY(run_window(job, coded, contexts, variant, layout));
    done += layout.tiles.size();
    if (!job.progress.report(done, total)) {
      return Status(StatusCode::kCancelled, str_cat(record.name, ": cancelled by the progress callback"));
    }
  }
  return {};
}

Status VulkanDecoder::run_window(const Job& job, const CodedTensor& coded, const TensorContexts& contexts,
                                 const RansVariant& variant, const WindowLayout& layout) {
  const TensorRecord& record = file_.tensors()[job.tensor];
  const uint64_t n = record.cols();
  WindowRun run;
  run.layout = &layout;
  run.contexts = &contexts;
  run.variant = variant;
  run.values_only = job.values_only;
  run.row_begin = std::max(job.row_begin, layout.row) - layout.row;
  run.row_end = std::min(job.row_end, layout.row + layout.rows) - layout.row;
  run.synthesis_level_at = layout.level_at;
  run.dtype = job.dtype;

  NWC_ASSIGN_OR_RETURN(const MutableBytes input, kernels_->prepare(run));
  size_t bad = 0;
  const Status packed = pack_window(file_, job.tensor, coded, layout, contexts, variant.shared_tables != 0,
                                    job.check_crc, runner_, input, &bad);
  if (!packed.ok()) {
    // The first bad tile is reported, as the CPU does; what the host cannot see without decoding may lie before it.
    for (size_t i = 0; i < bad; ++i) NWC_TRY(check_tile(job, coded, layout.tiles[i]));
    return packed;
  }
  NWC_TRY(kernels_->run(run));
  for (size_t i = 0; i < layout.tiles.size(); ++i) {
    const uint32_t status = kernels_->tile_status()[i];
    if (status == static_cast<uint32_t>(TileStatus::kOk)) continue;
    NWC_TRY(check_tile(job, coded, layout.tiles[i]));
    return Status(StatusCode::kDevice,
                  str_cat(tile_context(record, layout.tiles[i]), ": the Vulkan device reports status ", status,
                          " for a tile that the CPU decodes: decode on the CPU"));
  }
  if (job.values_only) {
    const uint64_t at = (layout.row / kChunk * n + layout.col) * kChunk;
    copy_rows(kernels_->result(), layout.blocks, uint64_t{layout.width} * kChunk, n * kChunk, sizeof(int16_t),
              job.out + static_cast<size_t>(at) * sizeof(int16_t));
  } else {
    const size_t element = dtype_size(job.dtype);
    const uint64_t at = (layout.row + run.row_begin - job.row_begin) * n + layout.col;
    copy_rows(kernels_->result(), run.row_end - run.row_begin, layout.width, n, element,
              job.out + static_cast<size_t>(at) * element);
  }
  return {};
}

Status VulkanDecoder::check_tile(const Job& job, const CodedTensor& coded, uint64_t tile) const {
  const TensorRecord& record = file_.tensors()[job.tensor];
  const TileGeometry geometry = tile_grid(record).tile(tile);
  std::vector<uint8_t> storage;
  NWC_ASSIGN_OR_RETURN(const Bytes payload,
                       read_range(file_.reader(), coded.tiles[tile].offset, coded.tiles[tile].size, &storage));
  std::vector<int16_t> values(size_t{geometry.row_blocks()} * geometry.width * kChunk);
  std::span<const uint8_t> row_class(coded.row_class);
  row_class = row_class.subspan(std::min<size_t>(geometry.row, row_class.size()));
  const Status status =
      decode_tile(CpuLevel::kScalar, tables_, geometry, coded.level.data() + geometry.col, row_class, payload, values);
  return status.with_context(tile_context(record, tile));
}

Result<std::unique_ptr<Decoder>> create_vulkan_decoder(const NwcFile& file, Runner& runner,
                                                       const VulkanOptions& options, const Logger& log) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanDecoder> decoder, VulkanDecoder::create(file, runner, options, log));
  return std::unique_ptr<Decoder>(std::move(decoder));
}

std::string describe_vulkan_devices() {
  auto instance = VulkanInstance::create(false, Logger{});
  if (!instance.ok()) return str_cat(instance.status().message(), "\n");
  const auto devices = list_devices(**instance);
  if (!devices.ok()) return str_cat(devices.status().message(), "\n");
  if (devices->empty()) return "Vulkan lists no device: install a driver\n";
  std::string text;
  for (const DeviceInfo& device : *devices) {
    text += str_cat(device.index, ": ", device.name, ", ", device_type_name(device.type), ", ", device.driver,
                    ", subgroups of ", device.subgroup_size, ", features: ", feature_names(device.features()));
    text += device.reject_reason.empty() ? "\n" : str_cat(": not usable, it ", device.reject_reason, "\n");
  }
  return text;
}

}  // namespace nwc
