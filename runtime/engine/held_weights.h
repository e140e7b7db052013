// How decoded weights are held in memory: which matrices are integers, of what type the others are, and where each
// lies.
#pragma once

#include "runtime/codec/integer_form.h"
#include "runtime/engine/file_layout.h"
#include "runtime/engine/integer_rates.h"

namespace nwc {

struct HeldMatrix {
  bool integers = false;
  Dtype dtype = Dtype::kF32;  ///< without integers
  IntegerForm form;           ///< with integers
  uint32_t rows = 0, cols = 0;
  uint64_t offset = 0;  ///< bytes in front of it in the layer's buffer
  uint64_t bytes = 0;

  /// Are both floats, of which these are further rows of the same matrix?
  bool continues(const HeldMatrix& before) const {
    return !integers && !before.integers && dtype == before.dtype && cols == before.cols &&
           offset == before.offset + uint64_t{before.rows} * cols * dtype_size(dtype);
  }
};

struct HeldWeights {
  IntegerWeights which = IntegerWeights::kNone;  ///< kQ8 or kPacked: floats beside integers are of the smallest type
                                                 ///< that holds the stored numbers exactly, and lie at multiples of 64
  Dtype floats = Dtype::kF32;                    ///< with kNone: of all
  bool on_device = false;                        ///< integers are DeviceForms
  bool requantized = false;                      ///< integers are the codec's weights rounded once more (IntegerForm)
  struct Layer {
    std::vector<HeldMatrix> matrices;  ///< as LayerLayout::matrices
    uint64_t bytes = 0;
    std::vector<HeldMatrix> experts;  ///< as LayerLayout::expert_matrices; each expert has a buffer of its own
    uint64_t expert_bytes = 0;        ///< of the largest of them
  };
  std::vector<Layer> layers;
  HeldMatrix embedding, head;  ///< head: empty where tied

  bool any_integers() const { return which != IntegerWeights::kNone; }
  /// Of rows that are looked up, and of bands of the head. Beside integers f32, which is as exact.
  Dtype row_dtype() const { return any_integers() ? Dtype::kF32 : floats; }
  const HeldMatrix& output(const ModelLayout& layout) const { return layout.model.tied_embeddings ? embedding : head; }
  /// m: one of the layout's matrices of that layer, or of its experts'.
  const HeldMatrix& matrix(const ModelLayout& layout, uint32_t layer, const PlacedMatrix& m) const {
    const LayerLayout& at = layout.layers[layer];
    const bool of_expert = nwc::of_expert(m.role);
    const PlacedMatrix* const first = of_expert ? at.expert_matrices.data() : at.matrices.data();
    return (of_expert ? layers[layer].experts : layers[layer].matrices)[static_cast<size_t>(&m - first)];
  }
  /// Is there a matrix of the codec's integers that shrinks, or does not?
  bool any_that(bool shrinks) const;
  uint64_t max_layer_bytes() const;
  uint64_t max_expert_bytes() const;
  /// Of all matrices.
  uint64_t bytes() const;
  /// Of a token's products with the integers, by these rates. Of a layer's experts a token takes a few, here and below.
  double product_seconds(const ModelLayout& layout, const IntegerRates& rates) const;
  /// Of the matrices that are multiplied by.
  uint64_t multiplied_weights(const ModelLayout& layout) const;
  double bytes_per_weight(const ModelLayout& layout) const;
};

/// All of them floats of one type, without gaps.
HeldWeights hold_floats(const ModelLayout& layout, Dtype dtype);

/// Why hold_integers() cannot be called; nullptr: it can. kAuto takes integers only where they are the weights exactly.
const char* why_no_integers(const NwcFile& file, IntegerWeights which);
/// What the same weights are as kQ8 and as kPacked.
struct HeldForms {
  HeldWeights q8, packed;
  const HeldWeights& as(IntegerWeights which) const { return which == IntegerWeights::kQ8 ? q8 : packed; }
};
/// Reads the side information of coded tensors. errors: those of load_coded
Result<HeldForms> hold_integers(const NwcFile& file, const ModelLayout& layout, bool on_device, bool check_crc);

}  // namespace nwc
