#include "bench/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

extern char** environ;

namespace nwc::bench {

nwc_model* open_model(const std::string& path) {
  return made([&](const nwc_error_detail* detail) {
    nwc_model* opened = nullptr;
    const nwc_status status = nwc_model_open_path(path.c_str(), detail, &opened);
    return std::pair(status, opened);
  });
}

nwc_session_estimate make_estimate(const nwc_model* model, const nwc_session_params& params) {
  return made([&](const nwc_error_detail* detail) {
    nwc_session_estimate estimate;
    nwc_session_estimate_init(&estimate);
    const nwc_status status = nwc_session_make_estimate(model, &params, detail, &estimate);
    return std::pair(status, estimate);
  });
}

nwc_session_plan make_plan(const nwc_model* model, const nwc_session_params& params) {
  return made([&](const nwc_error_detail* detail) {
    nwc_session_plan plan;
    nwc_session_plan_init(&plan);
    const nwc_status status = nwc_session_make_plan(model, &params, detail, &plan);
    return std::pair(status, plan);
  });
}

nwc_session* create_session(const nwc_model* model, const nwc_session_params& params) {
  return made([&](const nwc_error_detail* detail) {
    nwc_session* created = nullptr;
    const nwc_status status = nwc_session_create(model, &params, nullptr, nullptr, detail, &created);
    return std::pair(status, created);
  });
}

nwc_precision precision_named(const std::string& name) {
  for (nwc_precision p = NWC_PRECISION_F32; p <= NWC_PRECISION_PACKED; ++p) {
    if (name == nwc_session_precision_string(p)) return p;
  }
  return NWC_PRECISION_DEFAULT;
}

uint64_t memory_of_process(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind(key, 0) == 0) return 1024 * std::strtoull(line.c_str() + key.size(), nullptr, 10);
  return 0;
}

std::optional<std::string> run_again(const std::vector<std::string>& further) {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> arguments;
  for (std::string a; std::getline(file, a, '\0');) arguments.push_back(a);
  arguments.insert(arguments.end(), further.begin(), further.end());
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return std::nullopt;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t child = 0;
  const int failed = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string out;
  char buffer[4096];
  for (ssize_t n; failed == 0 && (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    out.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = -1;
  if (failed != 0 || waitpid(child, &status, 0) != child || status != 0) return std::nullopt;
  return out;
}

}  // namespace nwc::bench
