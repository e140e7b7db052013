// Copies the KV cache from and to a device, as KeptCache has it.
#pragma once

#include "runtime/engine/session_state.h"
#include "runtime/vulkan/submit.h"

namespace nwc {

/// A layer's cache on the device: [keys, values][kv_head][kept][head_dim]; position p lies in slot p % kept.
struct DeviceCacheLayer {
  const DeviceBuffer* buffer = nullptr;
  uint32_t kept = 0;
};

/// staging: host-visible, a row of a head at least. errors: kDeviceLost
Status save_device_cache(std::span<const DeviceCacheLayer> layers, const KeptCache& places, CommandBatch& batch,
                         const DeviceBuffer& staging, MutableBytes out);
Status load_device_cache(std::span<const DeviceCacheLayer> layers, const KeptCache& places, CommandBatch& batch,
                         const DeviceBuffer& staging, Bytes in);

}  // namespace nwc
