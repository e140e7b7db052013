#include "bench/bench_report.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

namespace nwc::bench {
namespace {

constexpr size_t kCopyBytes = 32u << 20;  // beyond what caches hold

double now(uint32_t threads) {
  timespec t{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace

double seconds_of(uint32_t threads, const std::function<void()>& work) {
  const double start = now(threads);
  work();
  return now(threads) - start;
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

void Report::note(const std::string& line) const {
  if (!json_) std::printf("%s\n", line.c_str());
}

void Report::measure(const std::vector<Job>& all) {
  std::vector<const Job*> jobs;
  for (const Job& job : all) {
    if (!wanted(job.record)) continue;
    job.work();  // warm up
    jobs.push_back(&job);
  }
  std::vector<std::vector<double>> times(jobs.size()), ratios(jobs.size());
  for (uint32_t i = 0; i < repeat_ && !jobs.empty(); ++i) {
    const double copy = seconds_of(1, [&] { std::memcpy(to_.data(), from_.data(), to_.size()); });
    for (size_t j = 0; j < jobs.size(); ++j) {
      times[j].push_back(seconds_of(jobs[j]->record.threads, jobs[j]->work));
      const double bytes = 2.0 * static_cast<double>(jobs[j]->record.weights);
      ratios[j].push_back(times[j].back() / (copy / static_cast<double>(kCopyBytes) * bytes));
    }
  }
  for (size_t j = 0; j < jobs.size(); ++j) {
    Record r = jobs[j]->record;
    r.seconds_median = median(times[j]);
    r.seconds_min = *std::min_element(times[j].begin(), times[j].end());
    r.ratio_memcpy = median(ratios[j]);
    records_.push_back(r);
    if (json_) continue;
    std::printf("%-64s %10.3f ms %9.4f Gweight/s %9.2f x memcpy\n", describe(r).c_str(), 1e3 * r.seconds_median,
                r.gweights_per_s(), r.ratio_memcpy);
    std::fflush(stdout);
  }
}

void Report::finish() const {
  if (!json_) return;
  nlohmann::json list = nlohmann::json::array();
  for (const Record& r : records_) {
    list.push_back({{"name", r.name},
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
                    {"ratio_memcpy", r.ratio_memcpy}});
  }
  std::printf("%s\n", list.dump(1).c_str());
}

}  // namespace nwc::bench
