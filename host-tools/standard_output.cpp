#include <cerrno>
#include <cstdio>
#include <cstring>

#include "host-tools/process.h"

namespace nwc::cli {
namespace {

Status stdout_error(int reason) {
  return io_error(std::string("stdout: ") + (reason != 0 ? std::strerror(reason) : "cannot be written"));
}

}  // namespace

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
