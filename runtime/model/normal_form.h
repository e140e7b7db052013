// Unicode's normalization forms.
#pragma once

#include <string>
#include <string_view>

namespace nwc {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

/// Bytes that are not part of valid UTF-8 stay as they are, and nothing is composed or reordered across them. O(n log
/// n).
std::string to_normal_form(std::string_view text, NormalForm form);

}  // namespace nwc
