// Describes the devices of the Vulkan loader and the kernels that the decoder chooses there. Only the .cpp file
// includes Vulkan.
#pragma once

#include <nlohmann/json.hpp>

#include "bench/synthetic_model.h"

namespace nwc::bench {

/// Every device: name, driver, features, limits that the decoder goes by, types of memory, queue families. Without a
/// loader or a device "devices" is empty and "why" says so.
nlohmann::json describe_devices();

/// A decoder of this model on the best device, with these features (DeviceFeature) switched off: seconds to make it,
/// the kernels that it compiles included, its log, and the median time of a submission that does nothing and is waited
/// for, of which a mixture of experts takes one a layer.
nlohmann::json describe_decoder(const SyntheticModel& model, const std::string& device, const std::string& disabled);

}  // namespace nwc::bench
