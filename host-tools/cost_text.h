// Describes the expected time of a session in words (runtime/engine/session_cost.h computes it).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "nwc/nwc.h"

namespace nwc::cli {

/// "12 ms", "3.4 s", "5.2 min", "31 h"
std::string format_seconds(double seconds);
/// "1.25 Gweight/s", "0.81 Mweight/s"
std::string format_weight_rate(double weights_per_second);

nlohmann::json estimate_json(const nwc_session_estimate& estimate);
/// Returns two indented lines with their line ends, and a third for experts that are read when they are needed.
std::string estimate_text(const nwc_session_estimate& estimate);

/// True if a token takes longer than `seconds`, or loading thirty times as long.
bool is_slow(const nwc_session_estimate& estimate, double seconds);
/// Returns a warning that says what is slow, why, and what to do instead. `mode` is the mode of the estimate.
/// `resident` has plan and estimate of the same model in mode resident, or is null if that does not fit the budget.
std::string slow_warning(const nwc_session_estimate& estimate, const std::string& mode,
                         const nwc_session_plan* resident_plan, const nwc_session_estimate* resident);

}  // namespace nwc::cli
