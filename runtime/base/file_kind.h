// The kind of file that a name stands for, in the words of an error text.
#pragma once

#include <sys/stat.h>

namespace nwc {

/// "a folder", "a FIFO", ... for stat::st_mode.
inline const char* file_kind(mode_t mode) {
  if (S_ISREG(mode)) return "a plain file";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace nwc
