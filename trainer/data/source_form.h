// Tensors that a checkpoint holds in another form than [out][in] with rows in order, brought into that form and back.
#pragma once

#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/format/block_spec.h"

namespace nwc {

enum class SourceForm : uint8_t {
  kPlain,
  kTransposed,  ///< [in][out] (GPT-2's Conv1D)
  kQkvByHead,   ///< rows alternate by head: q, k and v of head 0, then those of head 1 (GPT-NeoX)
};

/// The shape of a tensor in the plain form; its own inverse.
std::vector<uint64_t> plain_shape(SourceForm form, const std::vector<uint64_t>& shape);

/// Brings the elements of a tensor of shape `shape` (as the checkpoint has it) into the plain form, or back. heads: of
/// kQkvByHead, which has 3 * heads groups of rows. `in` and `out` have the same size and do not overlap.
/// errors: kUnsupported (a shape that the form cannot have)
Status to_plain_form(SourceForm form, uint32_t heads, const std::vector<uint64_t>& shape, Bytes in, MutableBytes out);
Status from_plain_form(SourceForm form, uint32_t heads, const std::vector<uint64_t>& shape, Bytes in, MutableBytes out);

}  // namespace nwc
