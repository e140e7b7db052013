// How many bytes a model will take at a quality, and the quality that takes a given number of bits per weight.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "runtime/base/log.h"
#include "trainer/encode/model_plan.h"
#include "trainer/encode/quantize.h"

namespace nwc {

/// The columns' levels as a function of one continuous quality. Levels are numbered by rising rate.
class LevelPolicy {
 public:
  virtual ~LevelPolicy() = default;
  /// Levels of the n columns of tensor `source`; quality in [0, num_levels - 1], more is finer.
  virtual std::vector<uint8_t> levels(size_t source, uint64_t n, double quality, uint32_t num_levels) const = 0;
};
/// Data-free (paper, section 4.4): the same quality everywhere. The first columns of a tensor are at the level below
/// `quality`, the rest at the one above, in the proportion that makes their mean; two runs deflate to nothing.
/// offset: levels by which each source tensor lies above the others; empty: none.
std::unique_ptr<LevelPolicy> make_uniform_policy(std::vector<uint32_t> offset = {});

/// What one pass over the model has to know about a tensor.
struct SurveyedTensor {
  uint64_t m = 0, n = 0;
  uint64_t side_bytes = 0;        ///< deflated scales; levels add little
  uint64_t overhead_bytes = 0;    ///< directory, padding and what the lanes' states cost beyond the bits they hold
  std::vector<float> sample;      ///< [chunks][16], normalised
  std::vector<float> level_bits;  ///< [K] per chunk; negative: not measured yet
};

struct ExpectedValues {
  std::vector<ValueHistogram> contexts;  ///< [K * 16], weighted to the size of the model
  std::vector<double> shrink;            ///< [K] the shrinkage with the least squared error of latents
  double weight = 1;                     ///< values of the model for each in the samples
};

/// Estimates sizes from samples of every coded tensor.
class RateModel {
 public:
  /// Reads every tensor once; refuses NaN and infinity. A coded tensor that is all zero becomes raw in the plan.
  static Result<RateModel> survey(const ModelSource& source, std::vector<PlannedTensor>* plan, bool row_scales,
                                  Runner& runner, const Progress& progress);

  /// Levels in use at a quality, ascending.
  std::vector<uint8_t> used_levels(const LevelPolicy& policy, double quality, uint32_t num_levels) const;
  /// Estimated bytes of coded tensors and CODEC section. `codec`: levels by rising rate.
  double estimate_bytes(const CodecModel& codec, const Rounding& rounding, const LevelPolicy& policy, double quality,
                        Runner& runner);
  /// The quality in [0, K - 1] whose estimate is nearest to `bytes`.
  double find_quality(const CodecModel& codec, const Rounding& rounding, const LevelPolicy& policy, double bytes,
                      Runner& runner);

  /// What to expect of the whole model, from the samples. `codec`: any renumbering; `level_map` [K of the policy]:
  /// number in `codec`, for levels in use.
  ExpectedValues expected_values(const CodecModel& codec, std::span<const uint8_t> level_map, const Rounding& rounding,
                                 const LevelPolicy& policy, double quality, Runner& runner) const;

  uint64_t coded_weights() const { return coded_weights_; }

 private:
  void measure_level(const CodecModel& codec, const Rounding& rounding, uint8_t level, Runner& runner);

  std::map<size_t, SurveyedTensor> tensors_;  ///< by index in the source
  std::vector<bool> measured_;                ///< [K]
  std::map<uint64_t, uint64_t> codec_bytes_;  ///< by set of levels, a bit each
  uint64_t coded_weights_ = 0;
};

/// The codec with tables refitted to the expected values, if that makes values and CODEC together smaller; else as it
/// is.
CodecRecord refit_tables(const CodecRecord& codec, const ExpectedValues& expected);

/// What CODEC takes in a model file.
uint64_t stored_codec_bytes(const CodecRecord& codec);

}  // namespace nwc
