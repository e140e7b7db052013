// Knows which keys of a config.json change what a model computes, and which do not.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "trainer/data/config_reader.h"

namespace nwc {

/// Checks every key of config.json that nobody has read. A key that is known to change results has
/// to be null, absent, or at the value that leaves the architecture as it is. Keys that are known neither to
/// change results nor to be harmless come back in *unknown, in order: the caller says that they are ignored.
/// errors: kUnsupported (names the key, its value and the value that could be run)
Status check_config_keys(const ConfigReader& config, std::vector<std::string>* unknown);

}  // namespace nwc
