// g_s in the layout of lane_kernels.h. Internal to runtime/codec.
#pragma once

#include <vector>

#include "runtime/codec/lane_kernels.h"
#include "runtime/format/codec_record.h"

namespace nwc {

/// Immutable; the codec must outlive it.
class SynthesisPlan {
 public:
  explicit SynthesisPlan(const CodecRecord& codec);
  SynthesisPlan(const SynthesisPlan&) = delete;
  SynthesisPlan& operator=(const SynthesisPlan&) = delete;

  const SynthesisView& view() const { return view_; }
  /// The most bytes that a plan of this codec takes, including while it is made.
  static uint64_t bytes(const CodecRecord& codec);

 private:
  std::vector<float> numbers_;
  SynthesisView view_;
};

/// 64-byte aligned; zeros where it has grown, which forgets what was there.
class AlignedFloats {
 public:
  explicit AlignedFloats(uint64_t count = 0) : lines_((count + 15) / 16) {}
  void grow(uint64_t count) {
    if (lines_.size() >= (count + 15) / 16) return;
    std::vector<Line>().swap(lines_);  // never both, nor more than is needed
    lines_.resize((count + 15) / 16);
  }
  float* data() { return lines_.data()->f; }

 private:
  struct alignas(64) Line {
    float f[16];
  };
  std::vector<Line> lines_;
};

/// For LaneKernels::features and ::synthesize.
class SynthesisScratch : public AlignedFloats {
 public:
  explicit SynthesisScratch(uint32_t width) : AlignedFloats(synthesis_scratch_floats(width)) {}
};

}  // namespace nwc
