// A hash of everything that a computation depends on. It names the kept result, so that it can be found again.
#pragma once

#include <string>

#include "trainer/data/model_source.h"

namespace nwc {

/// FNV-1a, 64 bits, over everything that is added, in that order. It tells inputs apart that differ by
/// accident, and is no protection against deliberate collisions.
class ContentHash {
 public:
  void add(Bytes bytes);
  void add(uint64_t v);
  void add(double v);                 ///< its bits
  void add(const std::string& text);  ///< length and bytes
  /// Adds the description, and the name, type, shape and CRC-32 of each tensor. Reads the whole source. errors: those
  /// of reading
  Status add(const ModelSource& source);
  /// 16 digits.
  std::string hex() const;

 private:
  uint64_t state_ = 0xcbf29ce484222325ull;
};

}  // namespace nwc
