// The inner loop of the Viterbi algorithm (add, compare, select) over a trellis of the format, in integers: every
// kernel finds the same path, and 16 bits a metric fill a vector with twice as many states as floats would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/cpu_features.h"
#include "runtime/format/trellis.h"

namespace nwc {

/// What a sample costs by the set of points that it takes (bank * 2 + parity of the value), each at most
/// kMaxBranchMetric. Only differences count.
struct BranchMetrics {
  uint16_t of_set[4];
};

/// Metrics of paths cannot overflow: from the best state any other is reached in v steps, so that they are v of these
/// apart at most, and after kSafeSamples, then every kSafeSamples - v, the least of them is subtracted (v <= 12).
inline constexpr uint16_t kMaxBranchMetric = 4095;
inline constexpr uint32_t kSafeSamples = 16;
inline constexpr uint16_t kUnreachable = 0xffff;
static_assert(kSafeSamples * kMaxBranchMetric < kUnreachable);
inline constexpr uint32_t kMaxTrellisStates = 1u << 12;

/// Bytes of decisions for each sample: one bit for each state.
inline size_t decision_bytes(const Trellis& trellis) { return (trellis.num_states() + 7) / 8; }

/// From state 0 through all samples. Bit n of a sample's decisions is the parity by which the best path comes to state
/// n; the lower one where both cost the same.
/// Returns the state in which the best of all paths ends, the lowest of several.
using ViterbiForward = uint16_t (*)(const Trellis& trellis, std::span<const BranchMetrics> samples, uint8_t* decisions);

/// The fastest kernel for this trellis on a processor that runs `most` and what is below it.
ViterbiForward viterbi_forward(const Trellis& trellis, CpuLevel most);

/// The state before `state`, from which the parity led there.
inline uint16_t previous_state(const Trellis& trellis, uint16_t state, uint32_t parity) {
  const uint32_t half = trellis.num_states() / 2;
  const uint32_t bank = state >= half ? 1 : 0;
  const uint32_t from = (state & (half - 1)) ^ (bank * (trellis.on_odd & (half - 1))) ^ (parity * trellis.parity);
  return static_cast<uint16_t>(2 * from + bank);
}

}  // namespace nwc
