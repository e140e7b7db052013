// Model files taken apart down to the values of every tile, changed there, and encoded again: a changed level, table,
// network or value gives a file that decodes.
#pragma once

#include <optional>
#include <vector>

#include "tests/codec/reference_encoder.h"
#include "tests/fuzz/container_mutator.h"

namespace nwc::fuzz {

struct EditableTensor {
  reference::TestTensor coded;  ///< record and blob of any tensor; the rest of coded ones
  bool changed = false;         ///< the blob is to be made anew
};

struct EditableModel {
  LooseContainer container;  ///< what is not below is kept here
  CodecRecord codec;
  std::vector<EditableTensor> tensors;

  /// nullopt for a file that cannot be opened, has no coded tensor, or is damaged or larger than a fuzzer wants.
  static std::optional<EditableModel> take_apart(Bytes file);
  /// Everything that changed is encoded anew.
  std::vector<uint8_t> put_together();
};

/// LLVMFuzzerCustomMutator for model files: a few changes of codec, tensors or model description; sometimes one of the
/// container's sections (mutate_container), or of a tensor's stored bytes with their checksums made right.
size_t mutate_model(uint8_t* data, size_t size, size_t max_size, unsigned seed);

}  // namespace nwc::fuzz
