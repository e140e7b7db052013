#include "host-tools/process.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

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

Status stdout_error(int reason) {
  return io_error(std::string("stdout: ") + (reason != 0 ? std::strerror(reason) : "cannot be written"));
}

}  // namespace

void prepare_process() {
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

Status write_stdout(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) return stdout_error(errno);
  return flush_stdout();
}

Status flush_stdout() {
  errno = 0;
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return stdout_error(errno);
  return {};
}

}  // namespace nwc::cli
