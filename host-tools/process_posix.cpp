// The process on Linux and macOS.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "host-tools/process.h"
#include "trainer/data/temporaries.h"

namespace nwc::cli {
namespace {

constexpr int kEndingSignals[] = {SIGINT, SIGTERM, SIGHUP};

/// Commands look for the flag between pieces of work, which may be long where one tensor is large. Whoever sends
/// SIGTERM kills outright after ten seconds or more, and then nothing is cleaned up: this is sooner.
constexpr unsigned kGraceSeconds = 8;

volatile std::sig_atomic_t g_interrupted = 0;  ///< the signal's number

void end_at_once(int number) {
  remove_temporaries();
  std::signal(number, SIG_DFL);
  raise(number);  // is delivered when the handler returns
}

void on_signal(int number) {
  if (g_interrupted != 0) return end_at_once(number);
  g_interrupted = number;
  if (number != SIGINT) alarm(kGraceSeconds);  // at a terminal, who waits decides how long
}

void on_alarm(int) { end_at_once(g_interrupted); }

bool install_handlers() {
  struct sigaction action {};
  action.sa_flags = SA_RESTART;
  action.sa_handler = on_alarm;
  sigaction(SIGALRM, &action, nullptr);
  action.sa_handler = on_signal;
  for (const int number : kEndingSignals) {
    struct sigaction old {};
    // nohup and shells ignore some signals on behalf of what they start; that stays so.
    if (sigaction(number, nullptr, &old) != 0 || old.sa_handler == SIG_IGN) continue;
    sigaction(number, &action, nullptr);
  }
  return true;
}

/// "VmRSS:     1234 kB" -> bytes, if the line begins with `key`.
bool read_kib(const std::string& line, const char* key, uint64_t* bytes) {
  if (!line.starts_with(key)) return false;
  *bytes = 1024 * std::strtoull(line.c_str() + std::string(key).size(), nullptr, 10);
  return true;
}

}  // namespace

void prepare_process(int*, char***) {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    // The wrong direction: using it stays an error. open() takes the lowest free number.
    (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

bool interrupted() {
  static const bool installed = install_handlers();
  return installed && g_interrupted != 0;
}

void clear_interrupt() {
  if (g_interrupted == SIGINT) g_interrupted = 0;
}

bool is_terminal(Stream stream) { return isatty(static_cast<int>(stream)) != 0; }

std::string program_path() {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string() : path.string();
}

std::string user_cache_root() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return cache;
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return (std::filesystem::path(home) / ".cache").string();
  return "";
}

ProcessMemory process_memory() {
  ProcessMemory out;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    (void)read_kib(line, "VmRSS:", &out.resident);
    (void)read_kib(line, "VmHWM:", &out.peak);
  }
  return out;
}

}  // namespace nwc::cli
