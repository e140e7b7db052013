// What benchmarks of whole models share: calls of the C API that end the program if they fail, and processes of their
// own, whose peak memory is that of one measurement.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/bench_report.h"
#include "nwc/nwc.h"

namespace nwc::bench {

inline void check(nwc_status status, const char* text) {
  if (status != NWC_STATUS_OK) bench::check(Status(static_cast<StatusCode>(status), text));
}

/// The text of the handle's last error is fetched here, after the call: arguments are evaluated in any order.
template <typename Handle>
void check(nwc_status status, const Handle* handle, const char* (*last_error)(const Handle*)) {
  check(status, last_error(handle));
}

/// A call that makes something; text: its nwc_error_detail.
template <typename F>
auto made(const F& make) {
  char text[1024] = "";
  const nwc_error_detail detail{text, sizeof text};
  auto [status, value] = make(&detail);
  check(status, text);
  return value;
}

nwc_model* open_model(const std::string& path);
nwc_session_plan make_plan(const nwc_model* model, const nwc_session_params& params);
nwc_session_estimate make_estimate(const nwc_model* model, const nwc_session_params& params);
nwc_session* create_session(const nwc_model* model, const nwc_session_params& params);
/// name: of weight_forms(); any other: what sessions choose.
nwc_precision precision_named(const std::string& name);

/// Bytes of a line of /proc/self/status, "VmHWM:".
uint64_t memory_of_process(const std::string& key);

/// This program again, with further arguments; what it prints, or nullopt if it fails.
std::optional<std::string> run_again(const std::vector<std::string>& further);

}  // namespace nwc::bench
