// Handles signals and the standard streams of the process, and what else differs between operating systems. One of
// process_posix.cpp and process_windows.cpp is compiled; no other file of the tool names a system's function or header
// (tests/layering.cmake).
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/status.h"

namespace nwc::cli {

/// Called first in main(), whose arguments become UTF-8. Writing to a pipe without a reader, or beyond a limit of file
/// sizes, becomes an error instead of the end of the process; and a standard stream that was closed is reserved, so
/// that no file that is opened takes its number and receives what is printed.
void prepare_process(int* argc, char*** argv);

/// True once SIGINT, SIGTERM or SIGHUP has arrived; installs the handlers at the first call. A second signal ends the
/// process at once, and so do eight seconds after SIGTERM and SIGHUP; its temporary files are removed then too.
bool interrupted();

/// Forgets a SIGINT that has arrived, for commands that go on after what it ended. SIGTERM and SIGHUP stay.
void clear_interrupt();

enum class Stream { kIn, kOut, kError };
/// Whether somebody sits at the other end.
bool is_terminal(Stream stream);

/// The file that this program runs from; empty where the system does not say.
std::string program_path();
/// The folder for what can be made again; empty where the environment names none.
std::string user_cache_root();

/// Bytes as the system counts them; all are 0 where it does not say. The model's file is not among them, because files
/// are read and not mapped.
struct ProcessMemory {
  uint64_t resident = 0;  ///< now; without a session this is program, libraries, metadata and tokenizer
  uint64_t peak = 0;      ///< since the start
};
ProcessMemory process_memory();

/// Writes to stdout and flushes it. errors: kIo, with the reason
Status write_stdout(std::string_view text);
/// Flushes stdout and checks that everything printed has arrived. errors: kIo, with the reason
Status flush_stdout();

}  // namespace nwc::cli
