// Attention of one layer on a Vulkan device. Only the .cpp file includes Vulkan.
#pragma once

#include <memory>

#include "runtime/decoder/decoder.h"
#include "runtime/format/block_spec.h"

namespace nwc::bench {

class DeviceAttention {
 public:
  /// Of `tokens` tokens that are the last of `positions`, with so many layers' caches, one after another. nullptr: the
  /// decoder has no device, or the device not the memory.
  static std::unique_ptr<DeviceAttention> create(Decoder& decoder, const BlockSpec& block, uint32_t positions,
                                                 uint32_t tokens, uint32_t layers, Dtype kv_dtype);
  ~DeviceAttention();

  // Each returns what a layer takes by the device's clock, or the host's where the device has none.
  double attend(bool split);  ///< split over positions where that pays, or not
  double copy();              ///< of as many bytes as a layer's cache has
  uint32_t pieces() const;    ///< into which positions are split

 private:
  struct Impl;
  explicit DeviceAttention(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nwc::bench
