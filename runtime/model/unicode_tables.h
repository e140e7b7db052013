// The types of the tables that scripts/make_unicode_tables.py writes. Each table has internal linkage: a source file
// that includes this gets those that it uses.
#pragma once

#include <cstdint>

namespace nwc {
namespace {

struct CaseRun {
  uint32_t first;
  uint16_t count, stride;
  int32_t distance;  ///< from a character to its lower case
};

struct CombiningRun {
  uint32_t first;
  uint16_t count;
  uint8_t combining_class;
};

struct MappingRun {
  uint32_t first : 21;
  uint32_t count : 9;
  uint32_t compatible : 1;
  uint32_t linear : 1;  ///< what the first one becomes is `offset`, and so on
  uint16_t length;      ///< UTF-16 units of each
  uint16_t offset;      ///< in kMappingText
};

#include "runtime/model/unicode_tables.inc"

}  // namespace
}  // namespace nwc
