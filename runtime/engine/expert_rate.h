// What experts that do not stay in memory will cost, known before a session is made: how many tokens find theirs, and
// how fast the others are read (doc/architecture.md, "Cost prediction").
#pragma once

#include "runtime/engine/memory_plan.h"

namespace nwc {

/// The share of a token's experts, in [0, 1], that a cache with a slot for `share` of all of them is taken to hold.
/// With at least kLocalExperts experts in a layer it is share^0.15, which lies among the figures that are published of
/// such models (bench/routing.h has them: 45 % for 0.06, 67 and 81 % for 0.13 and 0.25, 90 to 95 % for 0.4). Models of
/// fewer experts spread their tokens almost evenly (Mixtral), so that it is the share itself.
double expected_expert_hits(double share, uint32_t experts_in_layer);
inline constexpr uint32_t kLocalExperts = 32;

/// Bytes per second at which the session that is planned reads experts from its file, some at a time, which are
/// asked not to be in the page cache. Takes about 0.1 s, longer where a few experts do. 0: it does not read ahead,
/// because the file lies in memory, all experts stay, or there is no memory for it.
/// errors: the reader's, kOutOfMemory
Result<double> measure_expert_read_rate(const NwcFile& file, const MemoryPlan& plan);

}  // namespace nwc
