// LLVMFuzzerMutate without libFuzzer.
#pragma once

#include "tests/fuzz/harness_support.h"

namespace nwc::fuzz {

/// What LLVMFuzzerMutate does from here on depends on the seed alone.
void seed_replay_mutations(uint64_t seed);

}  // namespace nwc::fuzz
