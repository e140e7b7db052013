// Resolves and checks the names of outputs. Every command checks all of its outputs before its work.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

/// Returns the plain file that is created or replaced when `path` is written. Symbolic links are followed, also to a
/// file that does not exist yet. Only a plain file can be replaced as a whole, so everything else is refused. errors:
/// kInvalidArgument (a folder, FIFO, socket or device; no such folder to write in), kIo (a folder or file that
///         may not be written, a name that the file system does not take). All name `path` and say why.
Result<std::string> resolve_output(const std::string& path);

/// An output of a command.
struct Output {
  std::string path;     ///< empty: none
  bool stream = false;  ///< it is appended to, never replaced, so a FIFO or a device will do as well
};

/// Checks all outputs of a command before its work: each can be written, none is one of the inputs (the same file under
/// any name or link, a part of the same split GGUF model, or a file in an input folder), and no two are the same. A
/// file is made beside each for a moment, to be sure. Files that nwc itself has written may lie in an input folder and
/// be replaced. Inputs that do not exist and empty names are passed over. errors: those of resolve_output;
/// kInvalidArgument, naming both
Status check_outputs(std::span<const Output> outputs, std::span<const std::string> inputs);

}  // namespace nwc
