// The limits of the container (doc/format.md, section 10), checked for tensors of every source format, so that a model
// that opens can also be stored.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/dtype.h"

namespace nwc {

/// Checks name (1 to 1024 bytes of UTF-8 without NUL), number of dimensions, each dimension, and returns the bytes of
/// the row-major tensor. errors: kCorrupt (name; elements of less than a byte that do not fill whole bytes), kLimit
Result<uint64_t> check_tensor(const std::string& name, const std::vector<uint64_t>& shape, Dtype dtype);

/// `tensor "name"`, for messages; unprintable bytes as \xNN, long names cut.
std::string quote_tensor(const std::string& name);

/// "[2, 3]".
std::string shape_text(const std::vector<uint64_t>& shape);

}  // namespace nwc
