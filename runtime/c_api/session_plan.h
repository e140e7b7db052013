// The plan of a session as the calls of the C API make it.
#pragma once

#include "runtime/c_api/handles.h"
#include "runtime/engine/session.h"

namespace nwc::c_api {

struct PlannedSession {
  SessionParams params;  ///< with what the plan found out
  MemoryPlan plan;
};
/// Measures how fast integers are where the choice of a form depends on it. runner: that computes; null: one is made if
/// it is needed.
Result<PlannedSession> plan_of(const NwcFile& file, const nwc_session_params& params, Runner* runner);

}  // namespace nwc::c_api
