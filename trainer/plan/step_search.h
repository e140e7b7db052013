// Chooses the common step to try next, until the file has the size that was asked for.
#pragma once

#include <optional>

namespace nwc {

/// Common steps (log2) between which files differ. At `finest` every column has the finest step that the codec has for
/// it, so that a smaller one changes nothing; at `coarsest` every value rounds to zero, or every column has the codec's
/// lowest level.
struct StepRange {
  double finest = 0, coarsest = 0;
};

/// Looks for the step at which the rate is the one wanted. The rate falls with the step, mostly: it jumps where the
/// levels in use change, and it stays the same where the weights need no more bits (ternary or sparse matrices,
/// constants). So the search follows the slope, divides what is left between a step too fine and one too coarse, and
/// goes to the end of the range where steps change nothing.
class StepSearch {
 public:
  explicit StepSearch(StepRange range) : range_(range) {}

  double clamp(double step) const;
  /// error: bits per weight above what is wanted that `step` gave; below, if negative. slope: bits per weight and
  /// octave that are expected, negative. Returns the next step to try, or nothing if no step comes closer: the error is
  /// negative at the finest step, positive at the coarsest, or jumps between two neighbouring ones.
  std::optional<double> next(double step, double error, double slope);
  /// A step too fine and one too coarse are known so close to each other that the rate jumps between them.
  bool between_neighbours() const;

 private:
  struct Pass {
    double step = 0, error = 0;
  };
  StepRange range_;
  std::optional<Pass> fine_, coarse_;  ///< the nearest steps known to give too much, and too little
  std::optional<Pass> last_;
  double width_ = 0;  ///< octaves between coarse_ and fine_, after the pass before
};

}  // namespace nwc
