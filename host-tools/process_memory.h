// Reports the memory of the process beside the memory that a session plans for, in `nwc run`.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "host-tools/process.h"

namespace nwc::cli {

/// `before` was measured with the model open and without a session. `now` has the peak with a session, or is the same.
nlohmann::json process_json(const ProcessMemory& before, const ProcessMemory& now);
/// Returns an indented line with its line end.
std::string process_text(const ProcessMemory& before);

}  // namespace nwc::cli
