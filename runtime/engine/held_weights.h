// How decoded weights are held in memory where that is not one floating-point type for all: which matrices are
// integers, and where each lies.
#pragma once

#include "runtime/codec/integer_form.h"
#include "runtime/engine/file_layout.h"

namespace nwc {

struct HeldMatrix {
  bool integers = false;
  Dtype dtype = Dtype::kF32;  ///< without integers: the smallest type that holds the stored numbers exactly
  IntegerForm form;           ///< with integers
  uint64_t offset = 0;        ///< bytes in front of it in the layer's buffer, a multiple of 64
  uint64_t bytes = 0;
};

struct HeldWeights {
  IntegerWeights which = IntegerWeights::kNone;  ///< kQ8 or kPacked
  bool on_device = false;                        ///< integers are DeviceForms
  bool requantized = false;                      ///< integers are the codec's weights rounded once more (IntegerForm)
  struct Layer {
    std::vector<HeldMatrix> matrices;  ///< as LayerLayout::matrices
    uint64_t bytes = 0;
  };
  std::vector<Layer> layers;
  HeldMatrix embedding, head;  ///< head: empty where tied
  std::string why_not;         ///< why some coded matrices are not integers; empty: all are

  const HeldMatrix& output(const ModelLayout& layout) const { return layout.model.tied_embeddings ? embedding : head; }
  /// m: one of the layout's matrices of that layer.
  const HeldMatrix& matrix(const ModelLayout& layout, uint32_t layer, const PlacedMatrix& m) const {
    return layers[layer].matrices[static_cast<size_t>(&m - layout.layers[layer].matrices.data())];
  }
  /// Is there a matrix of integers whose codec shrinks, or does not?
  bool any_that(bool shrinks) const;
  uint64_t max_layer_bytes() const;
  /// Bytes of a weight of the matrices that are multiplied by.
  double bytes_per_weight(const ModelLayout& layout) const;
};

/// What kAuto stands for, or else itself.
constexpr IntegerWeights held_as(IntegerWeights which) {
  return which == IntegerWeights::kAuto ? IntegerWeights::kPacked : which;
}

/// which: not kNone; on_device: as DeviceForms. kAuto takes integers only where they are the weights exactly, and so do
/// devices, which have no kernels for others. Reads the side information of coded tensors. errors: those of load_coded
Result<HeldWeights> hold_weights(const NwcFile& file, const ModelLayout& layout, IntegerWeights which, bool on_device,
                                 bool check_crc);

const char* integer_weights_name(IntegerWeights which);  ///< "q8", "packed"

}  // namespace nwc
