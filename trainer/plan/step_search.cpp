#include "trainer/plan/step_search.h"

#include <algorithm>
#include <cmath>

namespace nwc {
namespace {

constexpr double kMostOctaves = 2;         ///< that the slope is followed for
constexpr double kStrideGrowth = 4;        ///< of the stride where the error hardly moves
constexpr double kLongStride = 1;          ///< octaves after which an error that hardly moved will not move at all
constexpr double kCloseSteps = 1.0 / 16;   ///< octaves in which a rate that does not jump changes by less than a tenth
constexpr double kNeighbours = 1.0 / 512;  ///< octaves between two steps that count as one

}  // namespace

double StepSearch::clamp(double step) const {
  return std::clamp(step, range_.finest, std::max(range_.finest, range_.coarsest));
}

bool StepSearch::between_neighbours() const { return fine_ && coarse_ && coarse_->step - fine_->step < kCloseSteps; }

std::optional<double> StepSearch::next(double step, double error, double slope) {
  if (error > 0 ? step >= range_.coarsest : step <= range_.finest) return std::nullopt;
  const Pass pass{step, error};
  (error > 0 ? fine_ : coarse_) = pass;
  // Where the rate does not fall with the step, the newer of two contradicting passes counts.
  if (fine_ && coarse_ && fine_->step >= coarse_->step) (error > 0 ? coarse_ : fine_).reset();

  const bool stalled = last_ && (error > 0) == (last_->error > 0) && std::abs(error) > std::abs(last_->error) / 2;
  const double stride = last_ ? std::abs(step - last_->step) : 0;
  last_ = pass;
  if (!fine_ || !coarse_) width_ = INFINITY;
  double candidate = step - std::clamp(error / slope, -kMostOctaves, kMostOctaves);
  if (fine_ && coarse_) {
    const double width = coarse_->step - fine_->step;
    if (width < kNeighbours) return std::nullopt;
    // A straight line, unless it has not brought the two much closer.
    candidate = fine_->step + width * (2 * width > width_ ? 0.5 : fine_->error / (fine_->error - coarse_->error));
    width_ = width;
  } else if (stalled) {
    const double longer =
        stride >= kLongStride ? INFINITY : std::max(std::abs(candidate - step), kStrideGrowth * stride);
    candidate = error > 0 ? step + longer : step - longer;
  }
  return clamp(candidate);
}

}  // namespace nwc
