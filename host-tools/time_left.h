// How long a stage of a command will still take.
#pragma once

#include <optional>

namespace nwc::cli {

/// An estimate from what was done since the first report of a stage. What came before that says nothing of the rate:
/// another stage that had to be through first, or what an interrupted run had done.
class TimeLeft {
 public:
  /// Returns seconds; none until a fiftieth of the stage was done. now: in seconds, of any clock. fraction: of the
  /// stage, 0 to 1.
  std::optional<double> report(double now, double fraction) {
    if (!first_) first_ = {now, fraction};
    const double done = fraction - first_->fraction;
    if (done <= 0.02 || fraction >= 1) return std::nullopt;
    return (now - first_->time) * (1 - fraction) / done;
  }

 private:
  struct Report {
    double time, fraction;
  };
  std::optional<Report> first_;
};

}  // namespace nwc::cli
