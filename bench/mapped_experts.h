// What a mixture of experts is compared with: experts in f16 that are mapped from the disk.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/routing.h"

namespace nwc::bench {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct MappedOptions {
  std::string path;
  uint64_t budget = 0;
  uint32_t threads = 1, timed = 1;  ///< timed: the last ones of the tokens
};
/// The experts of the mapped file alone: those that the tokens took of the model beside it, times a vector. As many
/// stay in memory as the budget holds beside everything else of the model, those used last; what makes way is forgotten
/// by mapping and page cache. The system is told of all that a layer lacks before the first product, without which a
/// mapping is less than half as fast.
nlohmann::json run_mapped(const MappedOptions& options, const Choices& choices);

}  // namespace nwc::bench
