#include "trainer/data/tensor_limits.h"

#include <algorithm>

#include "runtime/base/checked.h"
#include "runtime/format/constants.h"
#include "runtime/format/utf8_check.h"

namespace nwc {

std::string quote_tensor(const std::string& name) {
  constexpr size_t kMaxShown = 200;
  constexpr char kHex[] = "0123456789abcdef";
  std::string text = "tensor \"";
  for (size_t i = 0; i < std::min(name.size(), kMaxShown); ++i) {
    const auto byte = static_cast<uint8_t>(name[i]);
    if (byte < 0x20 || byte == 0x7f) {
      text += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      text += name[i];
    }
  }
  return text + (name.size() > kMaxShown ? "...\"" : "\"");
}

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

Result<uint64_t> check_tensor(const std::string& name, const std::vector<uint64_t>& shape, Dtype dtype) {
  if (name.empty() || name.size() > kMaxNameBytes || name.find('\0') != std::string::npos || !is_valid_utf8(name)) {
    return corrupt(quote_tensor(name) + ": a tensor's name must be 1 to 1024 bytes of UTF-8 without NUL");
  }
  if (shape.size() > kMaxRank) {
    return limit_error(quote_tensor(name) + " has " + std::to_string(shape.size()) + " dimensions, more than " +
                       std::to_string(kMaxRank));
  }
  uint64_t elements = 1;
  bool empty = false;
  for (uint64_t dim : shape) {
    empty = empty || dim == 0;
    // Zero counts as one here, so that a zero cannot hide an absurd dimension beside it.
    if (dim > kMaxDimension || !checked_mul(elements, std::max<uint64_t>(dim, 1), &elements) ||
        elements > kMaxTensorElements || dtype_bytes(dtype, elements) > kMaxRawBytes) {
      return limit_error(quote_tensor(name) + " of shape " + shape_text(shape) +
                         " is too large: a dimension may have 2^31 - 1 elements, a tensor 2^40 bytes");
    }
  }
  if (empty) return uint64_t{0};
  if (elements * dtype_bits(dtype) % 8 != 0) {
    return corrupt(quote_tensor(name) + " of shape " + shape_text(shape) + " has elements of " + dtype_name(dtype) +
                   " that do not fill whole bytes");
  }
  return dtype_bytes(dtype, elements);
}

}  // namespace nwc
