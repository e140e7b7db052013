#include "trainer/data/name_pattern.h"

#include <charconv>

namespace nwc {
namespace {

constexpr std::string_view kHole = "{}";

}  // namespace

std::optional<std::vector<uint32_t>> match_pattern(std::string_view pattern, std::string_view name) {
  std::vector<uint32_t> numbers;
  for (;;) {
    const size_t hole = pattern.find(kHole);
    if (hole == std::string_view::npos) {
      if (name != pattern) return std::nullopt;
      return numbers;
    }
    if (name.substr(0, hole) != pattern.substr(0, hole)) return std::nullopt;
    name.remove_prefix(hole);
    pattern.remove_prefix(hole + kHole.size());
    uint32_t number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error != std::errc()) return std::nullopt;
    name.remove_prefix(static_cast<size_t>(end - name.data()));
    numbers.push_back(number);
  }
}

std::string fill_pattern(std::string_view pattern, std::span<const uint32_t> numbers) {
  std::string out;
  for (const uint32_t number : numbers) {
    const size_t hole = pattern.find(kHole);
    if (hole == std::string_view::npos) break;
    out.append(pattern.substr(0, hole)).append(std::to_string(number));
    pattern.remove_prefix(hole + kHole.size());
  }
  return out.append(pattern);
}

}  // namespace nwc
