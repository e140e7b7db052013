// Patterns of tensors' names: "model.layers.{}.mlp.experts.{}.up_proj.weight".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nwc {

/// Returns the numbers that a name has in place of the pattern's "{}", or nothing if it is not one of the pattern's.
std::optional<std::vector<uint32_t>> match_pattern(std::string_view pattern, std::string_view name);
/// Returns the pattern with the numbers, as many as there are, in place of its first "{}".
std::string fill_pattern(std::string_view pattern, std::span<const uint32_t> numbers);

}  // namespace nwc
