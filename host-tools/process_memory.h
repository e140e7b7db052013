// What the process takes beside what a session plans for: for `nwc run`, which can then say both.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace nwc::cli {

/// In bytes, as the kernel counts them; all 0 where there is no /proc.
struct ProcessMemory {
  uint64_t resident = 0;         ///< now
  uint64_t peak = 0;             ///< since the start
  uint64_t mapped_resident = 0;  ///< pages of the model's file that are in memory, part of `resident`
  uint64_t mapped_file = 0;      ///< the whole file

  /// Program, libraries, metadata, tokenizer: all but the file, whose pages the system can drop at any time.
  uint64_t beside_file() const { return resident - mapped_resident; }
};
/// model_path: of the file that is mapped; a folder maps none that are counted.
ProcessMemory process_memory(const std::string& model_path);

/// before: with the model open, without a session. now: peak with one, or the same.
nlohmann::json process_json(const ProcessMemory& before, const ProcessMemory& now);
/// A line, indented and ended.
std::string process_text(const ProcessMemory& before);

}  // namespace nwc::cli
