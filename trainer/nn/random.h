// Seeded random numbers, the same on every platform and at every thread count.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <numbers>

namespace nwc {

/// SplitMix64 (Steele, Lea, Flood 2014). A stream is named by a few integers (seed, purpose, step, shard), so that no
/// generator state has to be saved: a resumed training draws the same numbers again.
class Random {
 public:
  explicit Random(std::initializer_list<uint64_t> name) {
    for (uint64_t part : name) state_ = mix(state_ ^ mix(part + 0x9e3779b97f4a7c15ull));
  }
  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15ull;
    return mix(state_);
  }
  /// Uniform in [0, bound), bound > 0 (Lemire's multiplication; its bias of bound / 2^64 does not matter here).
  uint64_t below(uint64_t bound) { return static_cast<uint64_t>((static_cast<Wide>(next()) * bound) >> 64); }
  /// Uniform in (0, 1).
  double uniform() { return (static_cast<double>(next() >> 12) + 0.5) * 0x1p-52; }
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

 private:
  __extension__ typedef unsigned __int128 Wide;
  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint64_t state_ = 0;
};

}  // namespace nwc
