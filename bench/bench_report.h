// Timing and records that all subcommands of nwc-bench share.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/status.h"

namespace nwc::bench {

/// One measurement. Empty strings and zeros: does not apply.
struct Record {
  std::string name{}, preset{}, quantizer{};
  double bpw = 0;
  std::string backend{}, device{};
  uint32_t threads = 1;
  uint64_t weights = 0;
  double seconds_median = 0, seconds_min = 0;
  double ratio_memcpy = 0;  ///< median of time over that of copying as many f16 weights, measured in turn
  std::vector<std::pair<std::string, double>> extra{};  ///< further keys

  double gweights_per_s() const { return 1e-9 * static_cast<double>(weights) / seconds_median; }
};

/// Something to be timed.
struct Job {
  Record record;  ///< but for the times
  std::function<void()> work;
  bool wall_clock = false;         ///< also with one thread, for work that others do: disks, devices
  std::function<void()> before{};  ///< each run, not timed
  /// After work: its seconds by a clock of the device's. 0: there is none, the time of `work` counts.
  std::function<double()> own{};
};

/// The job that others are compared with: each gets the median of its time over that job's as a further key.
struct Against {
  size_t job = 0;
  std::string key{};
};

/// Prints a table while it measures, or, with --json, all records at the end.
class Report {
 public:
  Report(bool json, uint32_t repeat, std::string only);
  /// Runs all jobs and a memcpy in turns: once to warm up, then `repeat` times. Jobs whose line in the table does not
  /// contain `only` are left out.
  void measure(const std::vector<Job>& jobs, const std::optional<Against>& against = {});
  /// A measurement made elsewhere, seconds and ratio included.
  void add(const Record& record);
  /// What copying a byte takes now.
  double copy_seconds_per_byte(bool processor_time);
  /// Among the lines of the table; with --json to stderr.
  void note(const std::string& line) const;
  /// Prints the records if --json asked for them.
  void finish() const;
  bool wanted(const Record& record) const;

 private:
  bool json_;
  uint32_t repeat_;
  std::string only_;
  std::vector<uint8_t> from_, to_;
  std::vector<Record> records_;
};

/// Seconds of `work`, of processor time or of the clock.
double seconds_of(bool processor_time, const std::function<void()>& work);
double median(std::vector<double> values);
/// "linear, trellis, 4.0 bpw"
std::string describe(const Record& record);
/// Model name of the processor.
std::string cpu_name();
/// Ends the program if something that cannot fail did.
void check(const Status& status);

}  // namespace nwc::bench
