#include "bench/bench_decode_vulkan.h"

namespace nwc::bench {

struct DeviceMemory::Impl {};

DeviceMemory::~DeviceMemory() = default;
std::unique_ptr<DeviceMemory> DeviceMemory::create(Decoder&, uint64_t) { return nullptr; }
void DeviceMemory::decode(uint64_t) {}
void DeviceMemory::copy(uint64_t) {}

}  // namespace nwc::bench
