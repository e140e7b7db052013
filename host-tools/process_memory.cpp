#include "host-tools/process_memory.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "host-tools/cli.h"

namespace nwc::cli {

nlohmann::json process_json(const ProcessMemory& before, const ProcessMemory& now) {
  return {{"beside_session_bytes", before.resident}, {"peak_bytes", now.peak}};
}

std::string process_text(const ProcessMemory& before) {
  return fmt::format("  the process takes {} beside that (program, metadata, tokenizer)\n",
                     format_bytes(before.resident));
}

}  // namespace nwc::cli
