// Measures the memory of the process. `nwc run` reports it beside the memory that a session plans for.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace nwc::cli {

/// Bytes as the kernel counts them; all are 0 where there is no /proc. The model's file is not among them, because
/// files are read and not mapped.
struct ProcessMemory {
  uint64_t resident = 0;  ///< now; without a session this is program, libraries, metadata and tokenizer
  uint64_t peak = 0;      ///< since the start
};
ProcessMemory process_memory();

/// `before` was measured with the model open and without a session. `now` has the peak with a session, or is the same.
nlohmann::json process_json(const ProcessMemory& before, const ProcessMemory& now);
/// Returns an indented line with its line end.
std::string process_text(const ProcessMemory& before);

}  // namespace nwc::cli
