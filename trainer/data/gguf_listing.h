// The tensors of a model, and where a GGUF file has them: under other names, and all experts of a layer in one.
#pragma once

#include <string>
#include <vector>

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_file.h"

namespace nwc {

/// `count` elements of a stored tensor, from number `first` on; whole rows of it.
struct GgufPiece {
  size_t stored = 0;  ///< index into GgufFile::tensors
  uint64_t first = 0, count = 0;
};

struct GgufListed {
  std::string name;
  std::vector<uint64_t> shape;
  std::vector<GgufPiece> pieces;  ///< one behind the other; of one type
  uint32_t rotary_head_dim = 0;   ///< of a q or k projection whose rows are in another order (gguf_rotary_row); else 0
};

/// For a model: under its names and without the rotary factors, which its description has. Without one (nullptr): every
/// tensor as it is.
/// errors: kCorrupt (one of two biases that belong together is missing), kUnsupported (a tensor that does not hold as
///         many experts as the description says), kLimit. The first two name the tensor.
Result<std::vector<GgufListed>> list_gguf_tensors(const GgufFile& file, const ModelRecord* model);

}  // namespace nwc
