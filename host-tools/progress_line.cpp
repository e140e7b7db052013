#include "host-tools/progress_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"
#include "host-tools/cost_text.h"

namespace nwc::cli {
namespace {

using Clock = std::chrono::steady_clock;

/// What the stages of a command share: a process runs one command.
struct CommandProgress {
  double done = 0;                        ///< 0 to 1, of the command
  Clock::time_point last = Clock::now();  ///< when something was shown
};

CommandProgress& command_progress() {
  static CommandProgress progress;
  return progress;
}

std::chrono::duration<double> line_interval(bool often) {
  const double usual = often ? 0.17 : 10;
  const char* text = std::getenv("NWC_PROGRESS_SECONDS");
  char* end = nullptr;
  const double seconds = text != nullptr ? std::strtod(text, &end) : usual;
  return std::chrono::duration<double>(end != text && seconds >= 0 && std::isfinite(seconds) ? seconds : usual);
}

}  // namespace

ProgressLine::ProgressLine(const Context& context, std::string stage, double share)
    : enabled_(!context.quiet && context.ranks->first()),
      json_(context.progress_json),
      terminal_(!json_ && is_terminal(Stream::kError)),
      interval_(line_interval(json_ || terminal_)) {
  (void)interrupted();
  limit_ = command_progress().done + std::clamp(share, 0.0, 1.0) * (1 - command_progress().done);
  next(std::move(stage), 1);
}

ProgressLine::~ProgressLine() {
  command_progress().done = limit_;
  if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
}

void ProgressLine::next(std::string stage, double share) {
  CommandProgress& command = command_progress();
  if (reported_) command.done = end_;
  reported_ = false;
  stage_ = std::move(stage);
  begin_ = command.done;
  end_ = begin_ + std::clamp(share, 0.0, 1.0) * (limit_ - begin_);
  left_ = TimeLeft();
}

bool ProgressLine::report(uint64_t done, uint64_t total, const std::string& detail) {
  if (interrupted()) return false;
  CommandProgress& command = command_progress();
  if (!reported_) begin_ = std::clamp(command.done, begin_, end_);  // another stage may have gone on inside of this one
  reported_ = true;
  const double fraction = total == 0 ? 0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  command.done = std::max(command.done, begin_ + fraction * (end_ - begin_));
  const Clock::time_point now = Clock::now();
  const std::optional<double> left =
      left_.report(std::chrono::duration<double>(now.time_since_epoch()).count(), fraction);
  if (!enabled_ || now - command.last < interval_) return true;
  command.last = now;
  show(left, detail);
  return true;
}

void ProgressLine::show(std::optional<double> seconds_left, const std::string& detail) {
  if (json_) {
    const nlohmann::json line = {{"fraction", command_progress().done}, {"stage", stage_}, {"detail", detail}};
    std::fprintf(stderr, "%s\n", line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    std::fflush(stderr);
    return;
  }
  std::string line = fmt::format("{:3.0f} % {}", std::floor(100 * command_progress().done), stage_);
  if (seconds_left) line += ", " + format_seconds(std::ceil(*seconds_left)) + " left of this step";
  if (!detail.empty()) line += ", " + detail;
  std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "nwc: %s\n", line.c_str());
  std::fflush(stderr);
  shown_ = true;
}

Progress ProgressLine::callback() {
  return Progress{
      [](void* user, uint64_t done, uint64_t total) { return static_cast<ProgressLine*>(user)->report(done, total); },
      this};
}

}  // namespace nwc::cli
