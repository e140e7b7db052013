#include "host-tools/cli.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

namespace nwc::cli {
namespace {

void print_log(void* user, LogLevel level, const char* message) {
  const auto* context = static_cast<const Context*>(user);
  if (level < LogLevel::kWarning && !context->verbose) return;
  if (is_terminal(Stream::kError)) std::fputs("\r\033[K", stderr);  // a progress line may stand there
  const char* prefix = level == LogLevel::kError ? "error: " : level == LogLevel::kWarning ? "warning: " : "";
  std::fprintf(stderr, "nwc: %s%s\n", prefix, message);
}

Status ranks_may_run(const Context& context, const std::string& command) {
  if (context.ranks->alone() || command == "compress") return {};
  return invalid_argument("runs as one process, not as " + std::to_string(context.ranks->size()) +
                          " ranks; of all commands only nwc compress shares its work");
}

}  // namespace

int exit_code(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk: return kOk;
    case StatusCode::kUnrecognized:
    case StatusCode::kUnsupported:
    case StatusCode::kUnsupportedVersion:
    case StatusCode::kCorrupt:
    case StatusCode::kTruncated:
    case StatusCode::kChecksum:
    case StatusCode::kLimit: return kBadFile;
    case StatusCode::kInvalidArgument: return kUsage;
    case StatusCode::kNoDevice: return kNoDevice;
    default: return kFailure;
  }
}

Logger Context::logger() const { return ranks->first() ? Logger{print_log, const_cast<Context*>(this)} : Logger(); }

void Context::warn_once(const std::string& message) const {
  if (warned_.insert(message).second) logger().log(LogLevel::kWarning, message);
}

void Context::print_json(const nlohmann::json& value) const {
  const std::string text = value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
  fmt::print("{}\n", text);
}

void run_command(Context& context, const char* command, const std::function<Status()>& body) {
  Status status;
  try {
    status = ranks_may_run(context, command);
    if (status.ok()) status = body();
    // What was printed may still wait in a buffer.
    if (const Status printed = flush_stdout(); status.ok()) status = printed;
  } catch (const std::bad_alloc&) {
    status = Status(StatusCode::kOutOfMemory, "out of memory");
  } catch (const std::system_error& error) {  // fmt::print, where the buffer was full
    status = io_error(error.what());
  } catch (const std::exception& error) {
    status = Status(StatusCode::kInternal, error.what());
  }
  context.result = exit_code(status);
  if (status.ok()) return;
  std::string text = std::string("nwc ") + command + ": " + status_code_name(status.code());
  if (!status.message().empty()) text += ": " + status.message();
  if (context.ranks->first()) {
    std::fprintf(stderr, "%s\n", text.c_str());
  } else {
    context.failure = std::move(text);
  }
}

int finish_ranks(Context& context, std::unique_ptr<Ranks> ranks) {
  if (context.result == kOk || ranks->alone()) return context.result;
  if (!ranks->first()) {
    // What is wrong with options, model or disk the first rank finds as well, and says it. The rest is this one's.
    std::this_thread::sleep_for(std::chrono::seconds(2));
    std::fprintf(stderr, "%s (rank %u of %u, on %s)\n", context.failure.c_str(), ranks->rank(), ranks->size(),
                 ranks->host().c_str());
  }
  std::fflush(stderr);
  ranks->abort(context.result);
  return context.result;
}

Status check_before_work(std::span<const Output> outputs, std::span<const std::string> inputs) {
  (void)interrupted();
  return check_outputs(outputs, inputs);
}

std::string format_count(uint64_t n) {
  std::string digits = std::to_string(n);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

std::string format_bytes(uint64_t bytes) {
  const double b = static_cast<double>(bytes);
  if (bytes < 1024) return fmt::format("{} B", bytes);
  if (bytes < 1024 * 1024) return fmt::format("{:.1f} KiB", b / 1024);
  if (bytes < 1024ull * 1024 * 1024) return fmt::format("{:.2f} MiB", b / (1024 * 1024));
  return fmt::format("{:.2f} GiB", b / (1024.0 * 1024 * 1024));
}

Result<uint64_t> parse_bytes(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  std::string unit(end == nullptr ? "" : end);
  if (!unit.empty() && unit.back() == 'B') unit.pop_back();
  if (!unit.empty() && unit.back() == 'i') unit.pop_back();
  double factor = 0;
  if (unit.empty()) factor = 1;
  if (unit == "K" || unit == "k") factor = 1024;
  if (unit == "M") factor = 1024.0 * 1024;
  if (unit == "G") factor = 1024.0 * 1024 * 1024;
  if (end == text.c_str() || factor == 0 || !std::isfinite(value) || value < 0 || value * factor > 9e18)
    return invalid_argument("'" + text + "' is not a size; write it like 600M, 1.5G or 64K");
  return static_cast<uint64_t>(value * factor);
}

Result<uint64_t> parse_budget(const std::string& text) {
  NWC_ASSIGN_OR_RETURN(const uint64_t bytes, parse_bytes(text));
  if (bytes == 0)
    return invalid_argument("--memory " + text + ": a model needs more than 0 bytes; leave it out for no limit");
  return bytes;
}

void add_common_options(Command command, Context& context) {
  command.add_flag("--json", context.json, "Print the result as JSON on stdout").group("Output");
  command.add_flag("-q,--quiet", context.quiet, "No progress line").group("Output");
  command
      .add_flag("--progress-json", context.progress_json,
                "Progress for programs: lines of JSON on stderr with fraction (of the command), stage and detail")
      .group("Output");
  command.add_flag("-v,--verbose", context.verbose, "Also print informational log lines").group("Output");
  command.add_option("-t,--threads", context.threads, "Threads to use; 0: one per core")
      .range(0, 256)
      .show_default()
      .group("Output");
  command.check_numbers();
}

}  // namespace nwc::cli
