// Weights by which rows of numbers are resized: of learned positions here, of pictures in the tools.
#pragma once

#include <cstdint>
#include <vector>

namespace nwc {

enum class Resize : uint8_t {
  kBilinearAntialiased,
  kBicubic,             ///< a = -0.75, four neighbours whatever the sizes are
  kBicubicAntialiased,  ///< a = -0.5
};

/// What one number of the result is a sum of. The weights add up to 1.
struct ResizeTaps {
  std::vector<uint32_t> at;
  std::vector<double> weights;
};

/// Taps of each of `to` numbers from `from` ones, both at least 1. Pixel centres lie at i + 0.5, and what lies outside
/// is left out (antialiased) or is the edge. source: Keys, Cubic convolution interpolation (1981); antialiased, the
/// kernel is as wide as from / to where that is above 1, as in Pillow and PyTorch.
std::vector<ResizeTaps> resize_taps(Resize kind, uint32_t from, uint32_t to);

}  // namespace nwc
