// Which tensors of a model are coded, in which order and groups they lie in the file (doc/format.md, section 6).
#pragma once

#include <vector>

#include "runtime/format/codec_record.h"
#include "trainer/codec/codec_model.h"
#include "trainer/data/model_source.h"

namespace nwc {

struct PlannedTensor {
  size_t source = 0;  ///< index in ModelSource::tensors()
  uint32_t group = 0;
  bool coded = false;
};

/// Tensors in the order in which inference needs them. With a model description: embedding (group 0), the layers in
/// order (norm, q, k, v, o, norm, gate, up, down), final norm and head (last group). Without: by name, numbers by
/// value; the tensors that share the name up to their first number are a group. Coded: f32, f16 and bf16 tensors of two
/// dimensions or more, at least 16 rows, 16 columns and min_elements elements.
std::vector<PlannedTensor> plan_model(const ModelSource& source, uint64_t min_elements);

/// "layer9" before "layer10".
bool natural_less(const std::string& a, const std::string& b);

/// The codec with the given levels only (or in another order), renumbered 0, 1, ..; tables and embeddings that no level
/// needs are dropped. The codec id stays: it names the file the codec came from.
CodecRecord subset_levels(const CodecRecord& codec, std::span<const uint8_t> levels);
CodecModel subset_levels(const CodecModel& codec, std::span<const uint8_t> levels);

}  // namespace nwc
