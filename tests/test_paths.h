// Where tests find their data: in the repository and the build folder that they were built from, or, on a machine that
// has neither, where the environment says (scripts/device_check.sh).
#pragma once

#include <cstdlib>
#include <string>

namespace nwc::test {

/// The environment variable's value, or `otherwise` where it is not set.
inline std::string path_from(const char* variable, const char* otherwise) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

/// A file of the repository: source_path("models/gutenlm-2.6m").
inline std::string source_path(const std::string& relative) {
  return path_from("NWC_TEST_SOURCE_DIR", NWC_SOURCE_DIR) + "/" + relative;
}

}  // namespace nwc::test
