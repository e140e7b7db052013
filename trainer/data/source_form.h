// Tensors that a checkpoint holds in another form than [out][in] with rows in order, brought into that form and back.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/format/block_spec.h"

namespace nwc {

enum class SourceForm : uint8_t {
  kPlain,
  kTransposed,  ///< [in][out] (GPT-2's Conv1D)
  kQkvByHead,   ///< rows alternate by head: q, k and v of head 0, then those of head 1 (GPT-NeoX)
  // All experts of a layer in one tensor, one behind the other, each of them as the name goes on:
  kStacked,            ///< [out][in] (Granite)
  kStackedTransposed,  ///< [in][out] (GPT-OSS)
  kStackedPairs,       ///< [in][out], and outputs 2 i and 2 i + 1 are gate's and up's number i
  kPairs,              ///< [experts][out], likewise: a bias
  kStackedPairRows,    ///< [out][in], likewise: GPT-OSS's weights as MXFP4
};
constexpr bool is_stacked(SourceForm form) {
  return form == SourceForm::kStacked || form == SourceForm::kStackedTransposed || form == SourceForm::kStackedPairs ||
         form == SourceForm::kStackedPairRows;
}
/// The name of the tensor that has all experts, from the model's name for one of them: without its number.
std::string stacked_name(const std::string& pattern, uint32_t layer);

/// The shape of a tensor in the plain form; its own inverse. Of a stacked one: of one expert's.
std::vector<uint64_t> plain_shape(SourceForm form, const std::vector<uint64_t>& shape);

/// Brings the elements of a tensor of shape `shape` (as the checkpoint has it) into the plain form, or back. heads: of
/// kQkvByHead, which has 3 * heads groups of rows. Of a stacked one: one expert's part of it. `in` and `out` have the
/// same size and do not overlap. errors: kUnsupported (a shape that the form cannot have)
Status to_plain_form(SourceForm form, uint32_t heads, const std::vector<uint64_t>& shape, Bytes in, MutableBytes out);
Status from_plain_form(SourceForm form, uint32_t heads, const std::vector<uint64_t>& shape, Bytes in, MutableBytes out);

}  // namespace nwc
