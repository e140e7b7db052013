// What two descriptions of a model have different, for writers that read back what they wrote.
#pragma once

#include <string>
#include <vector>

#include "runtime/format/model_record.h"

namespace nwc {

/// The names of the fields that differ in what the model computes, layer by layer. Names of tensors, end tokens, and in
/// which of several ways the same is said, do not count; floats may differ by their rounding.
std::vector<std::string> model_differences(const ModelRecord& a, const ModelRecord& b);

}  // namespace nwc
