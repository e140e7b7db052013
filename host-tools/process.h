// Handles signals and the standard streams of the process.
#pragma once

#include <string_view>

#include "runtime/base/status.h"

namespace nwc::cli {

/// Called first in main(). Writing to a pipe without a reader, or beyond a limit of file sizes, becomes an error
/// instead of the end of the process; and a standard stream that was closed is reserved, so that no file that is opened
/// takes its number and receives what is printed.
void prepare_process();

/// True once SIGINT, SIGTERM or SIGHUP has arrived; installs the handlers at the first call. A second signal ends the
/// process at once, and so do eight seconds after SIGTERM and SIGHUP; its temporary files are removed then too.
bool interrupted();

/// Forgets a SIGINT that has arrived, for commands that go on after what it ended. SIGTERM and SIGHUP stay.
void clear_interrupt();

/// Writes to stdout and flushes it. errors: kIo, with the reason
Status write_stdout(std::string_view text);
/// Flushes stdout and checks that everything printed has arrived. errors: kIo, with the reason
Status flush_stdout();

}  // namespace nwc::cli
