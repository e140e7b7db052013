// What the process takes beside what a session plans for: for `nwc run`, which can then say both.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace nwc::cli {

/// In bytes, as the kernel counts them; all 0 where there is no /proc. Nothing of the model's file is among them: files
/// are read, not mapped.
struct ProcessMemory {
  uint64_t resident = 0;  ///< now; before there is a session: program, libraries, metadata, tokenizer
  uint64_t peak = 0;      ///< since the start
};
ProcessMemory process_memory();

/// before: with the model open, without a session. now: peak with one, or the same.
nlohmann::json process_json(const ProcessMemory& before, const ProcessMemory& now);
/// A line, indented and ended.
std::string process_text(const ProcessMemory& before);

}  // namespace nwc::cli
