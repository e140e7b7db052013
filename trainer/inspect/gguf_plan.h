// What a GGUF file made of a .nwc file holds, and where it comes from.
#pragma once

#include <string>
#include <vector>

#include "runtime/format/nwc_file.h"
#include "trainer/data/gguf_form.h"
#include "trainer/data/gguf_mix.h"
#include "trainer/data/gguf_write.h"
#include "trainer/data/source_record.h"

namespace nwc {

/// Elements of a tensor of the compressed file.
struct GgufSegment {
  size_t record = 0;
  uint64_t first = 0, count = 0;
};

struct GgufPlan {
  GgufMetadata metadata;
  std::vector<GgufTensorSpec> tensors;
  /// For each tensor: where it comes from; nothing for the rotary factors, which the model description has.
  std::vector<std::vector<GgufSegment>> segments;
  std::vector<GgufPlace> places;  ///< for each: the form that it gets
  uint64_t weights = 0;           ///< that are decoded
};

/// source: what the file keeps of its source, or nullptr. type: nullptr: each tensor as the source had it, F16 where
/// that was quantized or is not known. errors: as decompress_to_gguf (decompress.h)
Result<GgufPlan> plan_gguf(const NwcFile& file, const SourceRecord* source, const GgufFileType* type,
                           std::vector<std::string>* notes);

}  // namespace nwc
