// What readers and writers of both kinds of sources ask of a model's description.
#pragma once

#include <cmath>

#include "runtime/format/model_record.h"

namespace nwc {

/// The first kind of block that has, or has not, a window; null: there is none.
inline const BlockSpec* find_block(const ModelRecord& model, bool windowed) {
  for (const BlockSpec& block : model.blocks) {
    if ((block.window != 0) == windowed) return &block;
  }
  return nullptr;
}

/// What YaRN multiplies rotated queries and keys by, at a scaling of positions by `factor`. multiplier: of its growth.
inline double yarn_scale(double factor, double multiplier = 1) {
  return factor <= 1 ? 1 : 0.1 * multiplier * std::log(factor) + 1;
}

}  // namespace nwc
