// A short name for what a computation depends on, so that its result can be kept and found again.
#pragma once

#include <string>

#include "trainer/data/model_source.h"

namespace nwc {

/// FNV-1a, 64 bits, over everything that is added, in that order. Tells inputs apart that differ by accident; not made
/// against those who look for collisions.
class ContentHash {
 public:
  void add(Bytes bytes);
  void add(uint64_t v);
  void add(double v);                 ///< its bits
  void add(const std::string& text);  ///< length and bytes
  /// Description, and of each tensor name, type, shape and CRC-32. Reads the whole source. errors: those of reading
  Status add(const ModelSource& source);
  /// 16 digits.
  std::string hex() const;

 private:
  uint64_t state_ = 0xcbf29ce484222325ull;
};

}  // namespace nwc
