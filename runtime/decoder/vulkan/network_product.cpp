#include "runtime/decoder/vulkan/network_product.h"

#include <algorithm>

#include "runtime/base/str_cat.h"
#include "runtime/codec/fused_product.h"

namespace nwc {
namespace {

uint64_t x_bytes(const TileGrid& grid, uint32_t vectors) { return align_up(grid.n * vectors * 4, kBindingAlignment); }
/// Bytes of a band's status words and values, without the alignment of the words.
uint64_t band_bytes(const TileGrid& grid) { return grid.tiles_per_row() * 4 + grid.tile_rows * grid.n * 2; }
uint64_t bands_bytes(const TileGrid& grid, uint64_t bands) {
  return x_bytes(grid, kMaxFusedBatch) + kBindingAlignment + bands * band_bytes(grid);
}

uint64_t half_bytes(const NwcFile& file, const VulkanOptions& options) {
  const uint64_t budget = options.max_window_bytes / 8;
  uint64_t most = 0;
  for (const TensorRecord& record : file.tensors()) {
    if (record.storage != Storage::kCoded) continue;
    const TileGrid grid = tile_grid(record);
    most = std::max({most, bands_bytes(grid, 1), std::min(bands_bytes(grid, grid.row_bands()), budget)});
  }
  return align_up(most, kBindingAlignment);
}

}  // namespace

Result<std::unique_ptr<NetworkProduct>> NetworkProduct::create(DeviceContext& context, NetworkSynthesis& network) {
  std::unique_ptr<NetworkProduct> self(new NetworkProduct(*context.device, *context.kernels, network));
  self->half_bytes_ = half_bytes(context.file, context.options);
  NWC_ASSIGN_OR_RETURN(self->buffer_,
                       DeviceBuffer::create(*context.device, 2 * self->half_bytes_, MemoryKind::kDevice));
  return self;
}

uint64_t NetworkProduct::bytes_for(const NwcFile& file, const VulkanOptions& options) {
  return 2 * half_bytes(file, options);
}

Status NetworkProduct::check(const TensorRecord& record) const {
  const TileGrid grid = tile_grid(record);
  const uint64_t groups = network_.product_bands(grid);
  const uint64_t partials = groups * grid.tile_rows * kMaxFusedBatch * sizeof(float);
  if (groups > kMaxGroups || std::max(bands_bytes(grid, 1), partials) > device_.info().max_storage_range) {
    return unsupported(str_cat(record.name, ": ", grid.n, " columns are too many for a product on the device"));
  }
  return {};
}

uint64_t NetworkProduct::most_rows(const TileGrid& grid) const {
  const uint64_t room = std::min(half_bytes_, device_.info().max_storage_range);
  const uint64_t bands = (room - bands_bytes(grid, 0)) / band_bytes(grid);
  return std::min(bands, uint64_t{kMaxGroups} * kChunk / grid.tile_rows) * grid.tile_rows;
}

Status NetworkProduct::add(CommandBatch& batch, const Slice& slice) {
  const RansPush& rans = slice.push;
  const uint64_t n = slice.grid.n, rows = rans.row_end - rans.row_begin;
  const uint32_t blocks = static_cast<uint32_t>(ceil_div(rows, kChunk));
  const uint64_t status_at = x_bytes(slice.grid, slice.vectors), status_bytes = uint64_t{rans.num_tiles} * 4;
  const uint64_t values_at = align_up(status_at + status_bytes, kBindingAlignment),
                 values_bytes = blocks * kChunk * n * 2;
  const uint64_t bytes = align_up(values_at + values_bytes, kBindingAlignment);
  assert(bytes <= half_bytes_);
  if (used_ + bytes > half_bytes_) NWC_TRY(step(batch));
  const uint64_t at = half_ * half_bytes_ + used_;
  used_ += bytes;
  // The kernel has no binding left for the caller's x.
  for (uint32_t v = 0; v < slice.vectors; ++v) {
    batch.copy(*slice.x.buffer, slice.x.offset + v * slice.x_stride * 4, buffer_, at + v * n * 4, n * 4);
  }
  NWC_TRY(batch.dispatch(kernels_.rans_pipeline(slice.variant),
                         {&kernels_.tables(), slice.window, BufferView(&buffer_, at + values_at, values_bytes),
                          BufferView(&buffer_, at + status_at, status_bytes)},
                         rans, kernels_.rans_groups(slice.variant, rans.num_tiles)));
  NetworkPush push;
  push.level_at = rans.level_at;
  push.scale_at = rans.scale_at;
  push.width = rans.width;
  push.num_levels = rans.num_levels;
  push.status_at = static_cast<uint32_t>(status_at / 4);
  push.values_at = static_cast<uint32_t>(values_at / 4);
  push.tile_cols = slice.grid.tile_cols;
  push.tile_blocks = slice.grid.tile_rows / kChunk;
  push.num_vectors = slice.vectors;
  push.num_rows = static_cast<uint32_t>(rows);
  decoding_.push_back({slice.window, BufferView(&buffer_, at, bytes), slice.partials, push, blocks,
                       static_cast<double>(kChunk * n) * network_.mac_per_weight()});
  return {};
}

// The network for what the step before has decoded; what has been decoded beside it is next.
Status NetworkProduct::step(CommandBatch& batch) {
  for (const Decoded& slice : decoded_) NWC_TRY(run_network(batch, slice));
  batch.barrier();
  decoded_ = std::move(decoding_);
  decoding_.clear();
  half_ = 1 - half_;
  used_ = 0;
  return {};
}

Status NetworkProduct::run_network(CommandBatch& batch, const Decoded& slice) {
  const double most = most_submission_macs(device_.info());
  NetworkPush push = slice.push;
  while (push.first_block < slice.blocks) {
    if (macs_ != 0 && macs_ + slice.block_macs > most) {
      batch.barrier();
      NWC_TRY(batch.submit_and_wait());
      NWC_TRY(batch.begin());
      batch.barrier();
      macs_ = 0;
    }
    const uint32_t room = static_cast<uint32_t>(std::min<double>(kMaxGroups, (most - macs_) / slice.block_macs));
    const uint32_t blocks = std::clamp(room, 1u, slice.blocks - push.first_block);
    NWC_TRY(network_.dispatch_product(batch, slice.window, slice.values, slice.partials, push, blocks));
    macs_ += blocks * slice.block_macs;
    push.first_block += blocks;
  }
  return {};
}

Status NetworkProduct::finish(CommandBatch& batch) {
  while (!decoding_.empty() || !decoded_.empty()) NWC_TRY(step(batch));
  return {};
}

void NetworkProduct::reset() {
  decoding_.clear();
  decoded_.clear();
  used_ = 0;
}

}  // namespace nwc
