#include "runtime/vulkan/device_features.h"

#include <iterator>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

// In the order of the bits.
constexpr std::string_view kNames[] = {"ballot",         "size_control", "storage16", "host_import",
                                       "pipeline_cache", "dot_product",  "queues"};
constexpr FeatureMask kAll = (1u << std::size(kNames)) - 1;
static_assert(kAll == 2 * static_cast<FeatureMask>(DeviceFeature::kQueues) - 1);

}  // namespace

Result<FeatureMask> parse_features(std::string_view names) {
  FeatureMask mask = 0;
  while (!names.empty()) {
    const size_t comma = names.find(',');
    const std::string_view name = names.substr(0, comma);
    names.remove_prefix(comma == std::string_view::npos ? names.size() : comma + 1);
    FeatureMask found = name == "all" ? kAll : 0;
    for (size_t i = 0; i < std::size(kNames); ++i) {
      if (name == kNames[i]) found = 1u << i;
    }
    if (found == 0) {
      return invalid_argument(
          str_cat("Vulkan has no optional feature \"", name, "\": there are ", feature_names(kAll), " and all"));
    }
    mask |= found;
  }
  return mask;
}

std::string feature_names(FeatureMask mask) {
  std::string text;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if ((mask >> i & 1u) != 0) text += str_cat((text.empty() ? "" : ","), kNames[i]);
  }
  return text.empty() ? "none" : text;
}

}  // namespace nwc
