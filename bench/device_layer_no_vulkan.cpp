#include "bench/device_layer.h"

namespace nwc::bench {

struct DeviceLayer::Impl {};

DeviceLayer::~DeviceLayer() = default;
std::unique_ptr<DeviceLayer> DeviceLayer::create(const SyntheticModel&, Decoder&) { return nullptr; }
double DeviceLayer::decode() { return 0; }
double DeviceLayer::copy() { return 0; }
double DeviceLayer::product(uint32_t) { return 0; }
double DeviceLayer::fused(uint32_t) { return 0; }
bool DeviceLayer::has_integers() const { return false; }
double DeviceLayer::decode_integers(IntegerWeights) { return 0; }
double DeviceLayer::integer_product(IntegerWeights, uint32_t, bool) { return 0; }
bool DeviceLayer::has_dots() const { return false; }
bool DeviceLayer::can_fuse() const { return false; }

}  // namespace nwc::bench
