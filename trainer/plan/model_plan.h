// Decides which tensors of a model are coded, and their order and groups in the file (doc/format.md, section 6).
#pragma once

#include <string>
#include <vector>

#include "runtime/format/codec_record.h"
#include "trainer/codec/codec_model.h"
#include "trainer/data/model_source.h"

namespace nwc {

struct PlannedTensor {
  size_t source = 0;  ///< index in ModelSource::tensors()
  uint32_t group = 0;
  uint32_t split = 1;  ///< leading dimensions that are the rows of the matrix (doc/format.md, section 5)
  bool coded = false;
  enum class Values { kAny, kZero, kNotFinite };
  Values values = Values::kAny;  ///< found when it is read: all zero, or NaN or infinity among them, so not coded
  std::string why_raw;           ///< why it is not coded: "I64 is not coded", "element 3 is NaN"; empty if it is
  uint32_t owner = 0;            ///< coded: the rank that codes it (deal_tensors.h)
};

/// Returns the split whose matrix is nearest to a square: the one for which the smaller of m and n is largest, and
/// among equals the largest split. Experts [e][out][in] give [e out][in], convolutions [out][in][h][w] give [out][in h
/// w].
uint32_t choose_split(const std::vector<uint64_t>& shape);

/// Tensors in the order in which inference needs them. With a model description: embedding (group 0), the layers in
/// order (norm, q, k, v, o, norm, gate, up, down), final norm and head (last group). Without: by name, numbers by
/// value; the tensors that share the name up to their first number are a group. Coded: f32, f16 and bf16 tensors that
/// are, under choose_split, matrices of at least 8 rows, 8 columns and min_elements elements.
std::vector<PlannedTensor> plan_model(const ModelSource& source, uint64_t min_elements);

/// "layer9" before "layer10".
bool natural_less(const std::string& a, const std::string& b);

/// The codec with the given levels only (or in another order), renumbered 0, 1, ..; tables and embeddings that no level
/// needs are dropped. The codec id stays: it names the file the codec came from.
CodecRecord subset_levels(const CodecRecord& codec, std::span<const uint8_t> levels);
CodecModel subset_levels(const CodecModel& codec, std::span<const uint8_t> levels);

}  // namespace nwc
