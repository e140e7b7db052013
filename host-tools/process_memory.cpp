#include "host-tools/process_memory.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"

namespace nwc::cli {
namespace {

/// "VmRSS:     1234 kB" -> bytes, if the line begins with `key`.
bool read_kib(const std::string& line, const char* key, uint64_t* bytes) {
  if (!line.starts_with(key)) return false;
  *bytes = 1024 * std::strtoull(line.c_str() + std::string(key).size(), nullptr, 10);
  return true;
}

}  // namespace

ProcessMemory process_memory() {
  ProcessMemory out;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    (void)read_kib(line, "VmRSS:", &out.resident);
    (void)read_kib(line, "VmHWM:", &out.peak);
  }
  return out;
}

nlohmann::json process_json(const ProcessMemory& before, const ProcessMemory& now) {
  return {{"beside_session_bytes", before.resident}, {"peak_bytes", now.peak}};
}

std::string process_text(const ProcessMemory& before) {
  return fmt::format("  the process takes {} beside that (program, metadata, tokenizer)\n",
                     format_bytes(before.resident));
}

}  // namespace nwc::cli
