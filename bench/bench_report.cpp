#include "bench/bench_report.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

namespace nwc::bench {
namespace {

constexpr size_t kCopyBytes = 32u << 20;  // beyond what caches hold

double now(bool processor_time) {
  timespec t{};
  clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Machines are shared, so that with one thread its processor time says more than the clock.
bool by_processor_time(const Job& job) { return job.record.threads == 1 && !job.wall_clock; }

double run_job(const Job& job) {
  if (job.before) job.before();
  const double seconds = seconds_of(by_processor_time(job), job.work);
  const double own = job.own ? job.own() : 0;
  return own > 0 ? own : seconds;
}

}  // namespace

double seconds_of(bool processor_time, const std::function<void()>& work) {
  const double start = now(processor_time);
  work();
  return now(processor_time) - start;
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

std::string describe(const Record& r) {
  std::string s = r.name;
  const auto add = [&](const std::string& part) {
    if (!part.empty()) s += (s.empty() ? "" : ", ") + part;
  };
  add(r.preset);
  add(r.quantizer);
  if (r.bpw != 0) {
    char bpw[32];
    std::snprintf(bpw, sizeof bpw, "%.2f bpw", r.bpw);
    add(bpw);
  }
  add(r.backend);
  return s;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

void check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "nwc-bench: %s\n", status.message().c_str());
  std::exit(1);
}

Report::Report(bool json, uint32_t repeat, std::string only)
    : json_(json), repeat_(repeat), only_(std::move(only)), from_(kCopyBytes, 1), to_(kCopyBytes, 2) {}

bool Report::wanted(const Record& record) const { return describe(record).find(only_) != std::string::npos; }

void Report::note(const std::string& line) const { std::fprintf(json_ ? stderr : stdout, "%s\n", line.c_str()); }

double Report::copy_seconds_per_byte(bool processor_time) {
  return seconds_of(processor_time, [&] { std::memcpy(to_.data(), from_.data(), to_.size()); }) /
         static_cast<double>(kCopyBytes);
}

void Report::measure(const std::vector<Job>& all, const std::optional<Against>& against) {
  std::vector<const Job*> jobs;
  size_t reference = SIZE_MAX;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!wanted(all[i].record)) continue;
    if (against && against->job == i) reference = jobs.size();
    run_job(all[i]);  // warm up
    jobs.push_back(&all[i]);
  }
  std::vector<std::vector<double>> times(jobs.size()), ratios(jobs.size());
  for (uint32_t i = 0; i < repeat_ && !jobs.empty(); ++i) {
    const double copy[] = {copy_seconds_per_byte(false), copy_seconds_per_byte(true)};
    for (size_t j = 0; j < jobs.size(); ++j) {
      times[j].push_back(run_job(*jobs[j]));
      const double f16_bytes = 2.0 * static_cast<double>(jobs[j]->record.weights);
      ratios[j].push_back(times[j].back() / (copy[by_processor_time(*jobs[j])] * f16_bytes));
    }
  }
  for (size_t j = 0; j < jobs.size(); ++j) {
    Record r = jobs[j]->record;
    r.seconds_median = median(times[j]);
    r.seconds_min = *std::min_element(times[j].begin(), times[j].end());
    r.ratio_memcpy = median(ratios[j]);
    if (reference != SIZE_MAX) {
      std::vector<double> quotient;
      for (size_t i = 0; i < times[j].size(); ++i) quotient.push_back(times[j][i] / times[reference][i]);
      r.extra.emplace_back(against->key, median(quotient));
    }
    add(r);
  }
}

void Report::add(const Record& r) {
  records_.push_back(r);
  if (json_) return;
  std::printf("%-64s %10.3f ms %9.4f Gweight/s %9.2f x memcpy", describe(r).c_str(), 1e3 * r.seconds_median,
              r.gweights_per_s(), r.ratio_memcpy);
  for (const auto& [key, value] : r.extra) {
    const size_t bytes = key.rfind("_bytes");
    if (bytes == std::string::npos) std::printf("  %s %.4g", key.c_str(), value);
    if (bytes != std::string::npos && value != 0)
      std::printf("  %s %.1f MiB", key.substr(0, bytes).c_str(), value / 1048576);
  }
  std::printf("\n");
  std::fflush(stdout);
}

void Report::finish() const {
  if (!json_) return;
  nlohmann::json list = nlohmann::json::array();
  for (const Record& r : records_) {
    nlohmann::json json = {{"name", r.name},
                           {"preset", r.preset},
                           {"quantizer", r.quantizer},
                           {"bpw", r.bpw},
                           {"backend", r.backend},
                           {"device", r.device},
                           {"threads", r.threads},
                           {"weights", r.weights},
                           {"seconds_median", r.seconds_median},
                           {"seconds_min", r.seconds_min},
                           {"gweights_per_s", r.gweights_per_s()},
                           {"ratio_memcpy", r.ratio_memcpy}};
    for (const auto& [key, value] : r.extra) json[key] = value;
    list.push_back(std::move(json));
  }
  std::printf("%s\n", list.dump(1).c_str());
}

}  // namespace nwc::bench
