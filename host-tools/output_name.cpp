#include "host-tools/output_name.h"

#include <algorithm>

namespace nwc::cli {
namespace {

/// Files of nwc, and those in which other programs keep models.
constexpr std::string_view kKnownEndings[] = {".nwc", ".nwcc", ".nwck", ".gguf", ".safetensors", ".bin",
                                              ".pt",  ".pth",  ".ckpt", ".onnx", ".json"};

char to_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

bool has_ending(std::string_view path, std::string_view ending) {
  if (path.size() < ending.size()) return false;
  return std::equal(ending.begin(), ending.end(), path.end() - static_cast<std::ptrdiff_t>(ending.size()),
                    [](char a, char b) { return to_lower(a) == to_lower(b); });
}

Status check_output_name(const std::string& path, std::initializer_list<std::string_view> written,
                         const std::string& hint) {
  const auto ends = [&](std::string_view ending) { return has_ending(path, ending); };
  if (std::any_of(written.begin(), written.end(), ends)) return {};
  if (std::none_of(std::begin(kKnownEndings), std::end(kKnownEndings), ends)) return {};
  return invalid_argument(path + " is named like a file of another kind than what is written; " + hint);
}

}  // namespace nwc::cli
