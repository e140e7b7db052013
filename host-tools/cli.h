// Code that all subcommands share: exit codes, errors, output, progress, threads.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <span>
#include <string>

#include "host-tools/command_line.h"
#include "host-tools/process.h"
#include "host-tools/progress_line.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "trainer/data/output_path.h"
#include "trainer/parallel/ranks.h"

namespace nwc::cli {

enum ExitCode : int { kOk = 0, kFailure = 1, kUsage = 2, kBadFile = 3, kNoDevice = 4 };

/// Returns the exit code for an error: 3 for files that are not recognised, unsupported, corrupt or beyond a limit, 4
/// for a missing device, 2 for a bad argument, and 1 for everything else.
int exit_code(const Status& status);

/// Options that every subcommand has, and where its output goes. Results go to stdout; progress, logs and errors to
/// stderr, so that stdout stays pipeable.
struct Context {
  bool json = false;
  bool quiet = false;
  bool progress_json = false;
  bool verbose = false;
  uint32_t threads = 0;        ///< 0: one per core
  int result = kOk;            ///< the process's exit code
  Ranks* ranks = &one_rank();  ///< only the first prints anything
  std::string failure;         ///< of another rank: what run_command would have printed

  /// Log lines: warnings and errors always, the rest with --verbose.
  Logger logger() const;
  /// A warning that is printed once, however often it is given.
  void warn_once(const std::string& message) const;
  void print_json(const nlohmann::json& value) const;

 private:
  mutable std::set<std::string> warned_;
};

/// Runs `body` and flushes stdout; an error of either is printed as "nwc <command>: <message>" and becomes the exit
/// code. Of several ranks none gets that far with a command that does not share its work.
void run_command(Context& context, const char* command, const std::function<Status()>& body);
/// The last call of a process. If the command failed on this rank, it fails on all: others may wait for it.
int finish_ranks(Context& context, std::unique_ptr<Ranks> ranks);

/// Calls check_outputs. Signals interrupt the command cleanly from here on, because the check makes temporary files.
Status check_before_work(std::span<const Output> outputs, std::span<const std::string> inputs);

/// 1234567 -> "1,234,567"; 5242880 -> "5.00 MiB".
std::string format_count(uint64_t n);
std::string format_bytes(uint64_t bytes);
/// "600M", "1.5G", "64KiB", "123456" -> bytes (powers of 1024). Errors: kInvalidArgument.
Result<uint64_t> parse_bytes(const std::string& text);
/// Parses the value of --memory like parse_bytes, but refuses 0, which would mean no limit.
Result<uint64_t> parse_budget(const std::string& text);

void add_train(CommandLine& line, Context& context);
void add_compress(CommandLine& line, Context& context);
void add_decompress(CommandLine& line, Context& context);
void add_info(CommandLine& line, Context& context);
void add_verify(CommandLine& line, Context& context);
void add_eval(CommandLine& line, Context& context);
void add_run(CommandLine& line, Context& context);
void add_embed(CommandLine& line, Context& context);
void add_report(CommandLine& line, Context& context);
void add_completion(CommandLine& line, Context& context);

/// The options of Context on a subcommand, which has all its other options already: those that are numbers are kept
/// from being NaN, infinite, negative or too large for their type here.
void add_common_options(Command command, Context& context);

}  // namespace nwc::cli
