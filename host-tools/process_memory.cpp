#include "host-tools/process_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
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

/// Bytes of the file's mappings that are in memory. In smaps a mapping's head ends with its file; figures follow.
uint64_t mapped_bytes(const std::string& file) {
  std::ifstream maps("/proc/self/smaps");
  uint64_t sum = 0, rss = 0;
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    const bool head = line.find('-') < line.find(' ') && line.find(':') > line.find(' ');
    if (head) ours = line.ends_with(" " + file);
    if (ours && read_kib(line, "Rss:", &rss)) sum += rss;
  }
  return sum;
}

}  // namespace

ProcessMemory process_memory(const std::string& model_path) {
  ProcessMemory out;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    (void)read_kib(line, "VmRSS:", &out.resident);
    (void)read_kib(line, "VmHWM:", &out.peak);
  }
  std::error_code error;
  const std::filesystem::path file = std::filesystem::canonical(model_path, error);
  if (!error && std::filesystem::is_regular_file(file, error)) {
    out.mapped_file = std::filesystem::file_size(file, error);
    out.mapped_resident = std::min(mapped_bytes(file.string()), out.resident);
  }
  return out;
}

nlohmann::json process_json(const ProcessMemory& before, const ProcessMemory& now) {
  return {{"beside_session_bytes", before.beside_file()},
          {"mapped_file_bytes", before.mapped_file},
          {"peak_bytes", now.peak}};
}

std::string process_text(const ProcessMemory& before) {
  return fmt::format(
      "  the process takes {} beside that (program, metadata, tokenizer), and maps the file ({}), whose pages the "
      "system "
      "drops when it needs memory\n",
      format_bytes(before.beside_file()), format_bytes(before.mapped_file));
}

}  // namespace nwc::cli
