#include "bench/device_attention.h"

namespace nwc::bench {

struct DeviceAttention::Impl {};

DeviceAttention::~DeviceAttention() = default;
std::unique_ptr<DeviceAttention> DeviceAttention::create(Decoder&, const BlockSpec&, uint32_t, uint32_t, uint32_t,
                                                         Dtype) {
  return nullptr;
}
double DeviceAttention::attend(bool) { return 0; }
double DeviceAttention::copy() { return 0; }
uint32_t DeviceAttention::pieces() const { return 1; }

}  // namespace nwc::bench
