// Shows the progress of a command on stderr.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "host-tools/time_left.h"
#include "runtime/base/log.h"

namespace nwc::cli {

struct Context;

/// One or more stages of a command. The percentage is that of the whole command and only grows: a stage takes `share`
/// of what the stages before it have left. On a terminal one line is written over, at most 6 times a second; elsewhere
/// a line is added every 10 seconds, or as many as NWC_PROGRESS_SECONDS says (0: at every step, for tests). With
/// --quiet nothing is shown. With --progress-json a line is a JSON object, at most 6 times a second: "fraction" of the
/// command (0 to 1), "stage" and "detail". Ctrl-C, SIGTERM and SIGHUP ask for a clean stop: report() then returns
/// false.
class ProgressLine {
 public:
  ProgressLine(const Context& context, std::string stage, double share = 1);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// Ends this stage, if it has begun to report, and begins another one, which takes `share` of the rest of this line.
  void next(std::string stage, double share);
  /// `done` of `total` of this stage. false: the user asked to stop.
  bool report(uint64_t done, uint64_t total, const std::string& detail = {});
  Progress callback();

 private:
  void show(std::optional<double> seconds_left, const std::string& detail);

  std::string stage_;
  bool enabled_, json_, terminal_;
  bool shown_ = false, reported_ = false;
  double begin_ = 0, end_ = 1, limit_ = 1;  ///< of the command: this stage, and the last one of this line
  std::chrono::duration<double> interval_;
  TimeLeft left_;
};

}  // namespace nwc::cli
