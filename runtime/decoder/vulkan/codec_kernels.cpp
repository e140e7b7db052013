#include "runtime/decoder/vulkan/codec_kernels.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

constexpr uint32_t kConvertGroup = 64;  // workgroup of convert_half
constexpr uint32_t kReduceGroup = 64;   // workgroup of fused_reduce
constexpr uint64_t kMaxWindowWeights = uint64_t{1} << 25;

// Shared memory of the rANS kernels beside the tables: chunk and sums of a tile; matrix, masks and rounding.
constexpr uint32_t kTileChunkBytes = 1024 + 64;
constexpr uint32_t kRingBytes = 1024;  // of a tile whose stream is staged
constexpr uint32_t kMatrixBytes = 1024 + 128;

uint32_t groups_for(uint64_t items, uint32_t per_group) { return static_cast<uint32_t>(ceil_div(items, per_group)); }

Bytes bytes_of(const void* data, size_t size) { return {static_cast<const uint8_t*>(data), size}; }

WeightsOutput weights_output(const WindowSlot& slot, const WindowRun& run, uint64_t alignment) {
  const WindowPath& path = run.path;
  const uint64_t width = run.layout->width;
  if (path.has_floats()) return {slot.floats_view(run), 0, width};
  if (path.has_halves()) return {slot.halves_view(run), 0, width};
  if (run.out.buffer == nullptr) return {slot.result_view(run), 0, width};
  const uint64_t element = dtype_size(path.dtype);
  const uint64_t begin = run.out.offset / alignment * alignment;
  const uint64_t end = run.out.offset + ((run.row_end - run.row_begin - 1) * run.out_stride + width) * element;
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): the output is f32, f16 or bf16.
  return {{run.out.buffer, begin, end - begin}, (run.out.offset - begin) / element, run.out_stride};
}

/// Four words, and columns from row block to row block.
WeightsOutput values_output(const WindowSlot& slot, const WindowRun& run, uint64_t alignment) {
  const WindowLayout& layout = *run.layout;
  if (run.path.has_values()) return {slot.values_view(run), 0, layout.width};
  if (run.out.buffer == nullptr) return {slot.result_view(run), 0, layout.width};
  const uint64_t begin = run.out.offset / alignment * alignment;
  const uint64_t end = run.out.offset + ((layout.blocks - 1) * run.out_stride + layout.width) * kChunk * 2;
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): a device says what its offsets are multiples of.
  return {{run.out.buffer, begin, end - begin}, (run.out.offset - begin) / 16, run.out_stride};
}

}  // namespace

Result<std::unique_ptr<VulkanKernels>> VulkanKernels::create(VulkanDevice& device, PipelineCache& pipelines,
                                                             const CodecRecord& codec, const DecodeTables& tables,
                                                             const std::vector<AliasTable>& extra,
                                                             const VulkanOptions& options) {
  const int stream_staging = options.stream_staging;
  std::unique_ptr<VulkanKernels> self(new VulkanKernels(device, pipelines));
  self->staged_ = stream_staging < 0 ? !device.info().quirks.software : stream_staging != 0;

  // Several tiles can share one copy of the tables. A tile a workgroup is faster on the device that was measured: it
  // spreads a window's few tiles over all multiprocessors. A subgroup of more than 32 has several tiles in any case.
  const DeviceInfo& info = device.info();
  const uint32_t most = std::clamp(128 / std::max(1u, info.subgroup_size), 1u, info.max_subgroups);
  const uint32_t together = self->tiles_together_ = std::max(1u, info.subgroup_size / kNumLanes);
  self->tiles_per_workgroup_ = together * std::clamp(groups_for(options.tiles_per_workgroup, together), 1u, most);

  std::vector<AliasTable> alias = tables.alias;
  alias.insert(alias.end(), extra.begin(), extra.end());
  NWC_ASSIGN_OR_RETURN(self->tables_,
                       upload_constant(device, pipelines, bytes_of(alias.data(), alias.size() * sizeof(AliasTable))));
  self->synthesis_ = DeviceSynthesis::create(codec, info);
  NWC_TRY(self->synthesis_->upload(device, pipelines));
  return self;
}

uint64_t VulkanKernels::max_constant_bytes(const CodecRecord& codec) {
  constexpr uint64_t kExtraTables = 16;  // the self-test's tables, more than there are, and its window
  // The host has tables for the CPU, too. Tables and network exist on the host, in the upload buffer and on the device.
  const uint64_t tables = (codec.tables.size() + kExtraTables) * 5 * sizeof(AliasTable);
  const uint64_t w = codec.synthesis.width, blocks = codec.synthesis.blocks.size();
  const uint64_t numbers =
      2 * codec.num_levels + kChunk * kChunk + w * (2 * kChunk + 2) + kChunk + blocks * w * (w + 3 + codec.num_levels);
  return tables + 3 * numbers * sizeof(float);
}

WindowLimits VulkanKernels::limits(uint64_t slot_bytes, const WindowPath& path, bool read_back) const {
  const uint64_t range = device_.info().max_storage_range;
  WindowLimits limits;
  limits.max_weights = std::min((range - kBindingAlignment) / 4, kMaxWindowWeights);
  synthesis_->limit(path, &limits);
  if (path.convert) limits.max_weights = std::min(limits.max_weights, uint64_t{kMaxGroups} * kConvertGroup * 2);
  limits.max_input_bytes = range;
  limits.max_tiles = kMaxGroups;
  limits.max_bytes = slot_bytes;
  limits.bytes_per_weight = path.scratch_bytes_per_weight() + (read_back ? path.result_bytes_per_weight() : 0);
  return limits;
}

uint32_t VulkanKernels::shared_tables(size_t used, bool ballot) const {
  // The tables take 12 KiB of the 16 that every device has, more where there is more, but never above half: several
  // workgroups are to share a core. What else is in shared memory: rans.glsl and consume.glsl.
  const uint32_t most = device_.info().max_shared_memory;
  const uint32_t tiles = ballot ? tiles_per_workgroup_ : 1;
  const uint32_t others = tiles * ((staged_ ? kRingBytes : 0) + kTileChunkBytes) + kMatrixBytes;
  const uint32_t room = std::min(std::max(12u, std::min(most / 2048, 24u)), (most - others) / 1024);
  for (const uint32_t size : {4u, 8u, 12u, 16u, 24u}) {
    if (used <= size && size <= room) return size;
  }
  return 0;
}

WindowPath VulkanKernels::path(bool values_only, Dtype dtype, const TileGrid& grid, bool read_back) const {
  WindowPath path;
  path.values_only = values_only;
  path.dtype = dtype;
  path.convert = !values_only && dtype != Dtype::kF32 && grid.n % 2 != 0;
  path.rans = values_only ? Consumer::kValues : path.convert ? Consumer::kF32 : consumer_of(dtype);
  if (!values_only) synthesis_->route(&path);
  if (path.convert) return path;
  // One binding has to hold the rows of a window.
  const uint64_t band_bytes = std::min<uint64_t>(grid.tile_rows, align_up(grid.m, kChunk)) * grid.n *
                              (values_only ? sizeof(int16_t) : dtype_size(dtype));
  path.direct = read_back ? device_.info().quirks.software : band_bytes <= device_.info().max_storage_range / 2;
  return path;
}

PipelineKey VulkanKernels::rans_pipeline(const RansVariant& variant) const {
  PipelineKey key;
  const uint32_t s = device_.info().subgroup_size;
  if (variant.consumer == Consumer::kProduct) {
    key.shader = variant.ballot ? ShaderId::kProductBallot : ShaderId::kProductShared;
  } else if (variant.storage16) {
    key.shader = variant.ballot ? ShaderId::kRansBallot16 : ShaderId::kRansShared16;
  } else {
    key.shader = variant.ballot ? ShaderId::kRansBallot : ShaderId::kRansShared;
  }
  key.constants = {variant.ballot ? s * (tiles_per_workgroup_ / tiles_together_) : kNumLanes,
                   variant.shared_tables,
                   static_cast<uint32_t>(variant.consumer),
                   synthesis_->is_identity() ? 1u : 0u,
                   staged_ ? 1u : 0u,
                   variant.batch};
  if (variant.ballot) {
    const uint32_t lanes = std::max(1u, kNumLanes / s);
    key.constants.insert(key.constants.end(), {tiles_per_workgroup_, s, lanes});
    key.required_subgroup_size = device_.info().size_control ? s : 0;
  }
  return key;
}

RansPush VulkanKernels::rans_push(const WindowLayout& layout, const TensorContexts& contexts) {
  RansPush push;
  push.tile_at = layout.tile_at;
  push.context_at = layout.context_at / 2;
  push.used_at = layout.used_at;
  push.num_used = static_cast<uint32_t>(contexts.used.size());
  push.level_at = layout.level_at;
  push.width = layout.width;
  push.num_tiles = static_cast<uint32_t>(layout.tiles.size());
  push.any_raw_bits = contexts.any_raw_bits ? 1 : 0;
  push.row_class_at = layout.row_class_at;
  push.trellis = contexts.trellis;
  push.scale_at = layout.scale_at;
  push.row_scale_at = layout.row_scale_at;
  push.network_at = layout.network_at;
  push.num_levels = contexts.num_levels;
  push.out_stride = layout.width;  // of values in a window of their own
  return push;
}

uint32_t VulkanKernels::rans_groups(const RansVariant& variant, uint64_t tiles) const {
  return groups_for(tiles, variant.ballot ? tiles_per_workgroup_ : 1);
}

Status VulkanKernels::dispatch_rans(WindowSlot& slot, const WindowRun& run) {
  RansPush push = rans_push(*run.layout, *run.contexts);
  BufferView out = slot.status_view(run);  // where there is no other
  if (run.path.rans == Consumer::kValues) {
    const WeightsOutput values = values_output(slot, run, device_.info().offset_alignment);
    out = values.view;
    push.out_at = static_cast<uint32_t>(values.at);
    push.out_stride = static_cast<uint32_t>(values.stride);
  } else if (run.path.rans != Consumer::kNothing) {
    const WeightsOutput weights = weights_output(slot, run, device_.info().offset_alignment);
    out = weights.view;
    push.row_begin = static_cast<uint32_t>(run.row_begin);
    push.row_end = static_cast<uint32_t>(run.row_end);
    push.out_at = static_cast<uint32_t>(weights.at);
    push.out_stride = static_cast<uint32_t>(weights.stride);
  }
  return slot.batch().dispatch(rans_pipeline(run.variant), {&tables_, slot.input_view(run), out, slot.status_view(run)},
                               push, rans_groups(run.variant, run.layout->tiles.size()));
}

Status dispatch_reduce(CommandBatch& batch, const ReducePush& push, const BufferView& partials,
                       const BufferView& window, const BufferView& y) {
  return batch.dispatch({ShaderId::kFusedReduce, {}, 0}, {partials, window, y}, push,
                        {groups_for(push.num_rows, kReduceGroup), push.num_vectors, 1});
}

Status VulkanKernels::dispatch_convert(CommandBatch& batch, const BufferView& source, const BufferView& halves,
                                       uint64_t count, Dtype dtype) {
  const ConvertPush push{.count = static_cast<uint32_t>(count), .bf16 = dtype == Dtype::kBf16 ? 1u : 0u};
  return batch.dispatch({ShaderId::kConvertHalf, {}, 0}, {nullptr, nullptr, source, halves}, push,
                        groups_for(ceil_div(count, 2), kConvertGroup));
}

Status VulkanKernels::submit(WindowSlot& slot, std::span<const WindowRun> runs, bool timed) {
  CommandBatch& batch = slot.batch();
  NWC_TRY(slot.begin(runs));
  if (timed) NWC_TRY(batch.start_clock());
  // Windows do not wait for each other: a barrier after each step of all of them.
  const auto each = [&](auto&& applies, auto&& step) -> Status {
    bool any = false;
    for (const WindowRun& run : runs) {
      if (run.layout == nullptr || !applies(run.path)) continue;
      NWC_TRY(step(run));
      any = true;
    }
    if (any) batch.barrier();
    return {};
  };
  NWC_TRY(each([](const WindowPath&) { return true; }, [&](const WindowRun& run) { return dispatch_rans(slot, run); }));
  NWC_TRY(each([](const WindowPath& path) { return path.network; },
               [&](const WindowRun& run) {
                 return synthesis_->dispatch(slot, run, weights_output(slot, run, device_.info().offset_alignment));
               }));
  NWC_TRY(each([](const WindowPath& path) { return path.convert; },
               [&](const WindowRun& run) {
                 return dispatch_convert(batch, slot.floats_view(run), slot.halves_view(run),
                                         (run.row_end - run.row_begin) * run.layout->width, run.path.dtype);
               }));
  if (timed) batch.stop_clock();
  for (const WindowRun& run : runs) {
    if (run.layout == nullptr) continue;
    batch.copy(slot.scratch(), run.at.status, slot.readback(), run.at.status_back, run.status_bytes());
    if (run.path.direct) continue;
    const uint64_t from = run.path.values_only ? run.at.values : run.path.has_halves() ? run.at.halves : run.at.floats;
    if (run.out.buffer == nullptr) {
      batch.copy(slot.scratch(), from, slot.readback(), run.at.result_back, run.result_bytes());
    } else {
      const bool values = run.path.values_only;
      const uint64_t size = values ? kChunk * 2 : dtype_size(run.path.dtype);
      batch.copy_rows(slot.scratch(), from, *run.out.buffer, run.out.offset,
                      values ? run.layout->blocks : run.row_end - run.row_begin, run.layout->width * size,
                      run.out_stride * size);
    }
  }
  return slot.submit();
}

Result<std::vector<uint16_t>> VulkanKernels::convert(std::span<const uint32_t> bits, Dtype dtype) {
  const uint64_t in_bytes = bits.size_bytes();
  const uint64_t out_bytes = align_up(bits.size() * 2, 4);
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer upload, DeviceBuffer::create(device_, in_bytes, MemoryKind::kUpload));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer source, DeviceBuffer::create(device_, in_bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer result, DeviceBuffer::create(device_, out_bytes, MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer readback, DeviceBuffer::create(device_, out_bytes, MemoryKind::kReadback));
  std::memcpy(upload.mapped().data(), bits.data(), bits.size_bytes());
  NWC_TRY(upload.flush());
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device_, pipelines_));
  NWC_TRY(batch->begin());
  batch->copy(upload, 0, source, 0, in_bytes);
  batch->barrier();
  NWC_TRY(dispatch_convert(*batch, &source, &result, bits.size(), dtype));
  batch->barrier();
  batch->copy(result, 0, readback, 0, out_bytes);
  batch->barrier();
  NWC_TRY(batch->submit_and_wait());
  NWC_TRY(readback.invalidate());
  std::vector<uint16_t> halves(bits.size());
  std::memcpy(halves.data(), readback.mapped().data(), halves.size() * 2);
  return halves;
}

}  // namespace nwc
