// Decoding to the device's own memory. Vulkan stays in the .cpp file; without Vulkan create() finds nothing.
#pragma once

#include "bench/bench_report.h"
#include "runtime/decoder/decoder.h"

namespace nwc::bench {

class DeviceMemory {
 public:
  /// Two buffers of so many bytes. nullptr: this decoder's device, if it has one, does not have them.
  static std::unique_ptr<DeviceMemory> create(Decoder& decoder, uint64_t bytes);
  ~DeviceMemory();
  /// The first rows of tensor 0 to f16.
  void decode(uint64_t rows);
  void copy(uint64_t bytes);

 private:
  struct Impl;
  explicit DeviceMemory(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nwc::bench
