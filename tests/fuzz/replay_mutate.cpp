#include "tests/fuzz/replay_mutate.h"

#include <algorithm>
#include <cstring>

namespace {
nwc::fuzz::Random generator(0);
}

void nwc::fuzz::seed_replay_mutations(uint64_t seed) { generator = Random(seed); }

// One of: a byte changed, some bytes removed, doubled, or overwritten by others of the input.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  if (size == 0) {
    if (max_size == 0) return 0;
    data[0] = static_cast<uint8_t>(generator.next());
    return 1;
  }
  const size_t at = generator.below(size), length = std::min<size_t>(1 + generator.below(8), size - at);
  switch (generator.below(5)) {
    case 0: data[at] = static_cast<uint8_t>(generator.next()); return size;
    case 1: data[at] = static_cast<uint8_t>(data[at] ^ (1u << generator.below(8))); return size;
    case 2: {
      std::memmove(data + at, data + at + length, size - at - length);
      return size - length;
    }
    case 3: {
      if (size + length > max_size) return size;
      std::memmove(data + at + length, data + at, size - at);
      return size + length;
    }
    default: {
      const size_t from = generator.below(size - length + 1);
      std::memmove(data + at, data + from, length);
      return size;
    }
  }
}
