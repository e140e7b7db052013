#include "bench/device_report.h"

namespace nwc::bench {

nlohmann::json describe_devices() {
  return {{"devices", nlohmann::json::array()}, {"why", "this program was built without Vulkan"}};
}
nlohmann::json describe_decoder(const SyntheticModel&, const std::string&, const std::string&) { return {}; }

}  // namespace nwc::bench
