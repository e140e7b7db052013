// What nwc run says of a session: its memory plan, its speed, its experts.
#pragma once

#include <cstdio>
#include <nlohmann/json_fwd.hpp>

#include "nwc/nwc.h"

namespace nwc::cli {

/// As --mode has it.
const char* mode_name(nwc_weight_mode mode);
nlohmann::json plan_json(const nwc_session_plan& plan);
void print_plan(FILE* out, const nwc_session_plan& plan);
/// On stderr. seconds: that `tokens` tokens took.
void print_speed(const nwc_session* session, const nwc_session_plan& plan, size_t tokens, double seconds);
/// null: the session has none.
nlohmann::json experts_json(const nwc_session* session);

}  // namespace nwc::cli
