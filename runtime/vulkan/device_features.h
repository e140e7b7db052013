// A device's optional features by name. For each there is code that does without it. A feature can be switched off, so
// that tests reach that code on a device that has the feature.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/base/status.h"

namespace nwc {

enum class DeviceFeature : uint32_t {
  kBallot = 1u << 0,         ///< ballots of subgroups in compute shaders
  kSizeControl = 1u << 1,    ///< a subgroup size and full subgroups can be required
  kStorage16 = 1u << 2,      ///< 16-bit numbers in storage buffers
  kHostImport = 1u << 3,     ///< the host's memory, a mapped file's too, as a source of copies
  kPipelineCache = 1u << 4,  ///< compiled pipelines kept from run to run
  kDotProduct = 1u << 5,     ///< dot products of four bytes, where the device says that it is fast at them
  kQueues = 1u << 6,         ///< further queues, on which decoding does not wait for other work
};

/// Bits of DeviceFeature.
using FeatureMask = uint32_t;
constexpr bool has(FeatureMask mask, DeviceFeature feature) { return (mask & static_cast<FeatureMask>(feature)) != 0; }

/// "ballot,storage16" as bits; "all" is every feature, empty none. Errors: kInvalidArgument, with the names there are.
Result<FeatureMask> parse_features(std::string_view names);
/// "ballot,storage16"; "none".
std::string feature_names(FeatureMask mask);

}  // namespace nwc
