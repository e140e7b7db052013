// A layer on a Vulkan device, which is decoded into the device's memory and multiplied there. Only the .cpp file
// includes Vulkan.
#pragma once

#include "bench/synthetic_model.h"
#include "runtime/decoder/decoder.h"

namespace nwc::bench {

class DeviceLayer {
 public:
  /// Of the model's first tensor; a decoder of that model. nullptr: it has no device, or the device not the memory.
  static std::unique_ptr<DeviceLayer> create(const SyntheticModel& model, Decoder& decoder);
  ~DeviceLayer();

  /// Vectors that a product can have: fused(), those of a few tokens; others, a prompt's.
  static constexpr uint32_t kMostVectors = 128;

  // Each returns what the device's clock says of its kernels or copies; 0 if it has no clock.
  double decode();                               ///< all of it to f16
  double copy();                                 ///< as many bytes as decode() writes
  double product(uint32_t vectors);              ///< with f16 weights
  double fused(uint32_t vectors);                ///< from the payload
  bool has_integers() const;                     ///< the codec's weights are integers
  double decode_integers(IntegerWeights which);  ///< kQ8 or kPacked: all of it to that form
  /// With weights in a form that decode_integers() has made. dots: by dot products of bytes, if the device has_dots().
  double integer_product(IntegerWeights which, uint32_t vectors, bool dots);
  bool has_dots() const;
  bool can_fuse() const;  ///< not with a network

 private:
  struct Impl;
  explicit DeviceLayer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nwc::bench
