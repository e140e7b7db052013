#include "runtime/engine/cache_copy_vulkan.h"

#include <algorithm>

namespace nwc {
namespace {

/// Calls row(offset in the device's layer, offset in the kept bytes) for rows [begin, end) of a layer that hold a
/// position which is kept.
template <typename Row>
void for_each_kept_row(const KeptCache::Layer& layer, uint32_t kept, uint64_t begin, uint64_t end, const Row& row) {
  for (uint64_t r = begin; r < end; ++r) {
    const uint32_t slot = static_cast<uint32_t>(r % kept);
    const uint32_t position = layer.begin + (slot + kept - layer.begin % kept) % kept;
    if (position >= layer.end) continue;
    const uint32_t head = static_cast<uint32_t>(r / kept % layer.kv_heads);
    const uint32_t half = static_cast<uint32_t>(r / kept / layer.kv_heads);
    row((r - begin) * layer.row_bytes, layer.offset(position, half) + uint64_t{head} * layer.row_bytes);
  }
}

/// Calls piece(layer number, first row, last row + 1) for pieces of the layers that fit the staging buffer.
template <typename Piece>
Status for_each_piece(std::span<const DeviceCacheLayer> layers, const KeptCache& places, const DeviceBuffer& staging,
                      const Piece& piece) {
  for (size_t l = 0; l < layers.size(); ++l) {
    const KeptCache::Layer& layer = places.layers()[l];
    if (layer.begin == layer.end) continue;
    const uint64_t rows = 2 * uint64_t{layer.kv_heads} * layers[l].kept;
    const uint64_t together = std::max<uint64_t>(1, staging.size() / layer.row_bytes);
    for (uint64_t at = 0; at < rows; at += together) NWC_TRY(piece(l, at, std::min(rows, at + together)));
  }
  return {};
}

}  // namespace

Status save_device_cache(std::span<const DeviceCacheLayer> layers, const KeptCache& places, CommandBatch& batch,
                         const DeviceBuffer& staging, MutableBytes out) {
  return for_each_piece(layers, places, staging, [&](size_t l, uint64_t begin, uint64_t end) -> Status {
    const KeptCache::Layer& layer = places.layers()[l];
    NWC_TRY(batch.begin());
    batch.barrier();
    batch.copy(*layers[l].buffer, begin * layer.row_bytes, staging, 0, (end - begin) * layer.row_bytes);
    batch.barrier();
    NWC_TRY(batch.submit_and_wait());
    NWC_TRY(staging.invalidate());
    const uint8_t* from = staging.mapped().data();
    for_each_kept_row(layer, layers[l].kept, begin, end,
                      [&](uint64_t at, uint64_t to) { std::memcpy(out.data() + to, from + at, layer.row_bytes); });
    return {};
  });
}

Status load_device_cache(std::span<const DeviceCacheLayer> layers, const KeptCache& places, CommandBatch& batch,
                         const DeviceBuffer& staging, Bytes in) {
  return for_each_piece(layers, places, staging, [&](size_t l, uint64_t begin, uint64_t end) -> Status {
    const KeptCache::Layer& layer = places.layers()[l];
    uint8_t* to = staging.mapped().data();
    std::memset(to, 0, static_cast<size_t>((end - begin) * layer.row_bytes));  // positions that nobody will look at
    for_each_kept_row(layer, layers[l].kept, begin, end,
                      [&](uint64_t at, uint64_t from) { std::memcpy(to + at, in.data() + from, layer.row_bytes); });
    NWC_TRY(staging.flush());
    NWC_TRY(batch.begin());
    batch.barrier();
    batch.copy(staging, 0, *layers[l].buffer, begin * layer.row_bytes, (end - begin) * layer.row_bytes);
    batch.barrier();
    return batch.submit_and_wait();
  });
}

}  // namespace nwc
