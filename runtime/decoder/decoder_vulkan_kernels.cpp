#include "runtime/decoder/decoder_vulkan_kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

constexpr uint32_t kMaxGroups = 65535;      // what every device takes in one dimension
constexpr uint32_t kElementwiseGroup = 64;  // workgroup of synthesis_linear and convert_half
constexpr uint64_t kMaxWindowWeights = uint64_t{1} << 25;
// Multiply-accumulates of a window's synthesis: tenths of a second on a small GPU, a second or two in software.
constexpr double kMaxWindowMacs = 6e10;
constexpr double kMaxWindowMacsSoftware = 4e9;

constexpr uint32_t kMlpThreads = 128;
constexpr uint32_t kMlpStates = 2048;  // numbers of h in shared memory
constexpr uint32_t kMlpChunks = 32;

void append(std::vector<float>* to, const std::vector<float>& from) { to->insert(to->end(), from.begin(), from.end()); }

/// [out][in] -> [in][out].
void append_transposed(std::vector<float>* to, const std::vector<float>& matrix, uint32_t out, uint32_t in) {
  for (uint32_t i = 0; i < in; ++i) {
    for (uint32_t o = 0; o < out; ++o) to->push_back(matrix[size_t{o} * in + i]);
  }
}

/// The layout that shaders/synthesis_linear.comp and synthesis_mlp.comp describe.
std::vector<float> pack_network(const CodecRecord& codec) {
  const Network& net = codec.synthesis;
  const uint32_t w = net.width;
  std::vector<float> packed;
  for (uint32_t l = 0; l < codec.num_levels; ++l) {
    packed.push_back(codec.step[l]);
    packed.push_back(codec.shrink[l]);
  }
  if (w != 0) {
    append_transposed(&packed, net.A, w, kChunk);
    append(&packed, net.a);
    for (size_t b = 0; b < net.blocks.size(); ++b) {
      append_transposed(&packed, net.blocks[b].V, w, w);
      append(&packed, net.blocks[b].v);
      append(&packed, net.blocks[b].gain);
      append(&packed, net.blocks[b].bias);
      const auto embedding = net.E.begin() + static_cast<std::ptrdiff_t>(b * codec.num_levels * w);
      packed.insert(packed.end(), embedding, embedding + static_cast<std::ptrdiff_t>(size_t{codec.num_levels} * w));
    }
    append(&packed, net.C);
    append(&packed, net.c);
  }
  append(&packed, net.S);
  return packed;
}

/// Specialization constants of synthesis_mlp.comp: as many chunks to a workgroup as shared memory holds.
PipelineKey mlp_pipeline(const Network& net, uint32_t* chunks) {
  const uint32_t w = net.width;
  const uint32_t output_threads = std::min(w, kMlpThreads);
  const uint32_t chunk_threads = std::max(1u, kMlpThreads / output_threads);
  const uint32_t outputs_per_thread = (w + output_threads - 1) / output_threads;
  const uint32_t most = std::min(kMlpChunks, kMlpStates / w);
  const uint32_t chunks_per_thread = std::max(1u, most / chunk_threads);
  *chunks = chunk_threads * chunks_per_thread;
  return {ShaderId::kSynthesisMlp,
          {output_threads * chunk_threads, w, output_threads, chunk_threads, outputs_per_thread, chunks_per_thread,
           static_cast<uint32_t>(net.blocks.size()), static_cast<uint32_t>(net.activation), net.layer_norm ? 1u : 0u},
          0};
}

uint32_t groups_for(uint64_t items, uint32_t per_group) { return static_cast<uint32_t>(ceil_div(items, per_group)); }

Bytes bytes_of(const void* data, size_t size) { return {static_cast<const uint8_t*>(data), size}; }

/// The row blocks of a window that hold the rows asked for, and their rows up to the last one asked for.
struct RowBlocks {
  explicit RowBlocks(const WindowRun& run)
      : first(static_cast<uint32_t>(run.row_begin / kChunk)),
        count(static_cast<uint32_t>(ceil_div(run.row_end, kChunk)) - first),
        rows(static_cast<uint32_t>(run.row_end - uint64_t{first} * kChunk)) {}
  uint32_t first, count, rows;
};

BufferView input_view(const WindowSlot& slot, const WindowRun& run) {
  return {&slot.scratch(), run.at.input, run.input_bytes()};
}
BufferView values_view(const WindowSlot& slot, const WindowRun& run) {
  return {&slot.scratch(), run.at.values, run.layout->num_weights() * 2};
}
BufferView weights_view(const WindowSlot& slot, const WindowRun& run) {
  return {&slot.scratch(), run.at.weights, run.layout->num_weights() * 4};
}

}  // namespace

Result<std::unique_ptr<VulkanKernels>> VulkanKernels::create(VulkanDevice& device, PipelineCache& pipelines,
                                                             const CodecRecord& codec, const DecodeTables& tables,
                                                             const std::vector<AliasTable>& extra,
                                                             uint32_t tiles_per_workgroup) {
  std::unique_ptr<VulkanKernels> self(new VulkanKernels(device, pipelines));
  self->width_ = codec.synthesis.width;
  self->num_levels_ = codec.num_levels;
  self->mac_per_weight_ = codec.synthesis.mac_per_weight();
  if (self->width_ == 0) {
    self->synthesis_ = {ShaderId::kSynthesisLinear, {}, 0};
    self->chunks_per_group_ = kElementwiseGroup;
  } else {
    self->synthesis_ = mlp_pipeline(codec.synthesis, &self->chunks_per_group_);
  }

  // Several tiles share one copy of the tables, where the subgroups of a workgroup are known to be full.
  const DeviceInfo& info = device.info();
  const uint32_t most = std::clamp(128 / std::max(1u, info.subgroup_size), 1u, info.max_subgroups);
  const bool full = info.size_control && info.full_subgroups;
  self->tiles_per_workgroup_ = tiles_per_workgroup != 0        ? std::min(tiles_per_workgroup, most)
                               : full && !info.quirks.software ? std::min(4u, most)
                                                               : 1;

  std::vector<AliasTable> alias = tables.alias;
  alias.insert(alias.end(), extra.begin(), extra.end());
  NWC_TRY(self->upload_constant(bytes_of(alias.data(), alias.size() * sizeof(AliasTable)), &self->tables_));
  const std::vector<float> network = pack_network(codec);
  NWC_TRY(self->upload_constant(bytes_of(network.data(), network.size() * sizeof(float)), &self->network_));
  return self;
}

uint64_t VulkanKernels::max_constant_bytes(const CodecRecord& codec) {
  constexpr uint64_t kExtraTables = 16;  // the self-test's, and more than there are
  // The host has tables for the CPU, too. Tables and network exist on the host, in the upload buffer and on the device.
  const uint64_t tables = (codec.tables.size() + kExtraTables) * (5 * sizeof(AliasTable) + sizeof(ShuffleTable));
  const uint64_t w = codec.synthesis.width, blocks = codec.synthesis.blocks.size();
  const uint64_t numbers =
      2 * codec.num_levels + kChunk * kChunk + w * (2 * kChunk + 2) + kChunk + blocks * w * (w + 3 + codec.num_levels);
  return tables + 3 * numbers * sizeof(float);
}

Status VulkanKernels::upload_constant(std::span<const uint8_t> bytes, DeviceBuffer* buffer) {
  if (bytes.size() > device_.info().max_storage_range) {
    return limit_error(str_cat("the codec's ", bytes.size(), " bytes exceed the device's buffer range"));
  }
  NWC_ASSIGN_OR_RETURN(*buffer, DeviceBuffer::create(device_, bytes.size(), MemoryKind::kDevice));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer upload, DeviceBuffer::create(device_, bytes.size(), MemoryKind::kUpload));
  std::memcpy(upload.mapped().data(), bytes.data(), bytes.size());
  NWC_TRY(upload.flush());
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device_, pipelines_));
  NWC_TRY(batch->begin());
  batch->copy(upload, 0, *buffer, 0, bytes.size());
  batch->barrier();
  return batch->submit_and_wait();
}

WindowLimits VulkanKernels::limits(uint64_t slot_bytes, uint32_t bytes_per_weight) const {
  const uint64_t range = device_.info().max_storage_range;
  const double macs = device_.info().quirks.software ? kMaxWindowMacsSoftware : kMaxWindowMacs;
  WindowLimits limits;
  limits.max_weights =
      std::min({range / 4, kMaxWindowWeights, static_cast<uint64_t>(macs / std::max(1.0, mac_per_weight_))});
  // And the kernels' workgroups must not exceed what one dimension takes.
  limits.max_weights = std::min({limits.max_weights, uint64_t{kMaxGroups} * chunks_per_group_ * kChunk,
                                 uint64_t{kMaxGroups} * kElementwiseGroup * 2});
  limits.max_input_bytes = range;
  limits.max_tiles = kMaxGroups;
  limits.max_bytes = slot_bytes;
  limits.bytes_per_weight = bytes_per_weight;
  return limits;
}

uint32_t VulkanKernels::shared_tables(size_t used) const {
  // 12 KiB of the 16 that every device has; more where there is more, but never above half: several workgroups are to
  // share a core.
  const uint32_t room = std::max(12u, std::min(device_.info().max_shared_memory / 2048, 24u));
  for (const uint32_t size : {4u, 12u, 16u, 24u}) {
    if (used <= size && size <= room) return size;
  }
  return 0;
}

Status VulkanKernels::dispatch_rans(WindowSlot& slot, const WindowRun& run) {
  const WindowLayout& layout = *run.layout;
  const uint32_t tiles = static_cast<uint32_t>(layout.tiles.size());
  PipelineKey key;
  uint32_t groups = tiles;
  if (run.variant.ballot) {
    const uint32_t s = device_.info().subgroup_size;
    key = {ShaderId::kRansBallot,
           {s * tiles_per_workgroup_, run.variant.shared_tables, s, std::max(1u, kNumLanes / s)},
           device_.info().size_control ? s : 0};
    groups = groups_for(tiles, tiles_per_workgroup_);
  } else {
    key = {ShaderId::kRansShared, {kNumLanes, run.variant.shared_tables}, 0};
  }
  const TensorContexts& contexts = *run.contexts;
  const uint32_t push[] = {
      layout.tile_at,      layout.context_at, layout.used_at, static_cast<uint32_t>(contexts.used.size()),
      layout.level_at,     layout.width,      tiles,          contexts.any_raw_bits ? 1u : 0u,
      layout.row_class_at, contexts.trellis};
  return slot.batch().dispatch(key,
                               {&tables_, input_view(slot, run), values_view(slot, run),
                                BufferView{&slot.scratch(), run.at.status, run.status_bytes()}},
                               push, groups);
}

Status VulkanKernels::dispatch_synthesis(WindowSlot& slot, const WindowRun& run) {
  const WindowLayout& layout = *run.layout;
  const RowBlocks blocks(run);
  const uint32_t chunks = blocks.count * layout.width;
  const bool row_scales = layout.row_scale_at != kNoRowScale;
  const uint32_t push[] = {run.synthesis_level_at,
                           layout.scale_at,
                           row_scales ? layout.row_scale_at + blocks.first * kChunk : kNoRowScale,
                           layout.width,
                           blocks.first,
                           chunks,
                           blocks.rows,
                           0,
                           2 * num_levels_,
                           num_levels_};
  return slot.batch().dispatch(synthesis_,
                               {&network_, input_view(slot, run), values_view(slot, run), weights_view(slot, run)},
                               push, groups_for(chunks, chunks_per_group_));
}

Status VulkanKernels::dispatch_convert(CommandBatch& batch, const BufferView& source, const BufferView& halves,
                                       uint64_t count, Dtype dtype) {
  const uint32_t push[] = {static_cast<uint32_t>(count), dtype == Dtype::kBf16 ? 1u : 0u};
  return batch.dispatch({ShaderId::kConvertHalf, {}, 0}, {nullptr, nullptr, source, halves}, push,
                        groups_for(ceil_div(count, 2), kElementwiseGroup));
}

Status VulkanKernels::submit(WindowSlot& slot, std::span<const WindowRun> runs) {
  CommandBatch& batch = slot.batch();
  NWC_TRY(slot.begin(runs));
  // Windows do not wait for each other: a barrier after each step of all of them.
  const auto each = [&](auto&& step) -> Status {
    bool any = false;
    for (const WindowRun& run : runs) {
      if (run.layout == nullptr) continue;
      NWC_TRY(step(run));
      any = true;
    }
    if (any) batch.barrier();
    return {};
  };
  NWC_TRY(each([&](const WindowRun& run) { return dispatch_rans(slot, run); }));
  NWC_TRY(each([&](const WindowRun& run) { return run.values_only ? Status() : dispatch_synthesis(slot, run); }));
  NWC_TRY(each([&](const WindowRun& run) {
    if (run.values_only || run.dtype == Dtype::kF32) return Status();
    return dispatch_convert(batch, weights_view(slot, run),
                            {&slot.scratch(), run.at.halves, run.layout->num_weights() * 2 + 4},
                            uint64_t{RowBlocks(run).rows} * run.layout->width, run.dtype);
  }));
  for (const WindowRun& run : runs) {
    if (run.layout == nullptr) continue;
    batch.copy(slot.scratch(), run.at.status, slot.readback(), run.at.status_back, run.status_bytes());
    if (run.values_only) {
      batch.copy(slot.scratch(), run.at.values, slot.readback(), run.at.result_back, run.result_bytes());
      continue;
    }
    const uint64_t width = run.layout->width, rows = run.row_end - run.row_begin, size = dtype_size(run.dtype);
    const uint64_t skip = (run.row_begin - uint64_t{RowBlocks(run).first} * kChunk) * width;
    const uint64_t from = (run.dtype == Dtype::kF32 ? run.at.weights : run.at.halves) + skip * size;
    if (run.out.buffer == nullptr) {
      batch.copy(slot.scratch(), from, slot.readback(), run.at.result_back, run.result_bytes());
    } else {
      batch.copy_rows(slot.scratch(), from, *run.out.buffer, run.out.offset, rows, width * size, run.out_stride * size);
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
