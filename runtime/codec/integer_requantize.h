// Weights that are no integers times scales become 8-bit integers with a scale for each row of 32 columns
// (integer_form.h). Internal to runtime/codec.
#pragma once

#include "runtime/codec/integer_form.h"
#include "runtime/codec/integer_pack.h"
#include "runtime/codec/synthesis_plan.h"
#include "runtime/codec/tile_walk.h"

namespace nwc {

/// Rounds 16 rows of the first `columns` of 32 columns to multiples q of a scale of each row, a bf16 number: the
/// smallest one that lets |q| <= 127. So a weight is off by at most half a scale, and a scale is at most 1 + 2^-7 times
/// the row's largest weight over 127. Columns behind have q = 0. A row that holds a weight that is not finite gets a
/// scale that is no number, and so does what it is multiplied by.
void requantize_rows(const LaneWeights& weights, uint32_t columns, LaneValues* q, uint16_t* scales);

/// What workers need for that.
class RequantizeWorkers {
 public:
  void prepare(uint32_t count, uint32_t width) {
    scratch_ = synthesis_scratch_floats(width);
    memory_.grow(count * stride());
  }
  float* scratch(uint32_t worker) { return memory_.data() + worker * stride(); }
  LaneWeights* weights(uint32_t worker) { return reinterpret_cast<LaneWeights*>(scratch(worker) + scratch_); }
  LaneValues* q(uint32_t worker) { return reinterpret_cast<LaneValues*>(weights(worker) + 1); }

 private:
  /// Floats of a worker; a multiple of 64 bytes, as are the parts.
  uint64_t stride() const { return scratch_ + (sizeof(LaneWeights) + sizeof(LaneValues)) / sizeof(float); }

  uint64_t scratch_ = 0;
  AlignedFloats memory_;
};

/// Writes a tensor's units and block scales. What it refers to must outlive it.
class RequantizedWriter final : public TileConsumer {
 public:
  RequantizedWriter(const SynthesisView& net, const IntegerForm& form, CpuLevel cpu, uint8_t* out,
                    RequantizeWorkers* workers)
      : net_(net), form_(form), kernels_(lane_kernels(cpu)), pack_(unit_packer(cpu)), out_(out), workers_(workers) {}

  void group(const TileGeometry& g, uint32_t r, uint32_t i, const ColumnGroup& group, const LaneValues& values,
             uint32_t worker) override;

 private:
  const SynthesisView& net_;
  const IntegerForm& form_;
  const LaneKernels kernels_;
  const PackUnit pack_;
  uint8_t* const out_;
  RequantizeWorkers* const workers_;
};

}  // namespace nwc
