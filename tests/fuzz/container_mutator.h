// Changes to container files (doc/format.md, sections 2 and 3) that keep what a random change breaks at once: sizes,
// offsets and checksums. So the change reaches the parser of the part that it was made in.
#pragma once

#include <optional>
#include <vector>

#include "runtime/format/container.h"
#include "tests/fuzz/harness_support.h"

namespace nwc::fuzz {

/// A container taken apart: sections with their inflated contents. Written down again, all fields agree.
struct LooseContainer {
  struct Part {
    uint32_t type = 0, flags = 0;
    std::vector<uint8_t> content;
  };
  uint16_t minor_version = kVersionMinor;
  uint32_t kind = 0;
  std::vector<Part> parts;

  /// nullopt for a file that Container::open does not take, or one that inflates to more than `limit` bytes.
  static std::optional<LooseContainer> take_apart(Bytes file, size_t limit);
  /// DATA begins at a multiple of 64 bytes from the start, as writers do it.
  std::vector<uint8_t> put_together() const;
  Part* find(SectionType type);
};

/// Sets the checksums in TENSORS to those of DATA, where the records can be read; side information that does not lie in
/// DATA is left alone.
void repair_tensor_checksums(LooseContainer* container);

/// A changed container: mostly a change within one section, sometimes of flags, order or number of sections. Files that
/// cannot be taken apart, and one in eight others, are changed as mere bytes.
/// Works as LLVMFuzzerCustomMutator has to: in place, returns the new size.
size_t mutate_container(uint8_t* data, size_t size, size_t max_size, unsigned seed);

}  // namespace nwc::fuzz
