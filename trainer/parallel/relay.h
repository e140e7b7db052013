// Sums that go from rank to rank, so that they are added up in one order at any number of ranks.
#pragma once

#include <functional>
#include <span>

#include "trainer/parallel/ranks.h"

namespace nwc {

/// `add` adds this rank's share to the numbers, which are then those of all ranks before it, and at last rank 0's
/// again. Elsewhere the numbers mean nothing afterwards. errors: those of Ranks
Status relay(Ranks& ranks, std::span<double* const> numbers, const std::function<void()>& add);

}  // namespace nwc
