// Finds codecs: a file by its path, or one of the shipped codecs by its name.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "trainer/codec/codec_model.h"

namespace nwc::cli {

/// "linear" -> .../codecs/linear.nwcc, looked for in $NWC_CODECS, beside the installed tool (../share/nwc/codecs) and
/// in the source tree that the tool was built in. Anything with a '/' or the suffix .nwcc is taken as a path.
/// errors: kNotFound, naming the folders searched and the codecs that they hold
Result<std::string> find_codec(const std::string& name);
/// The codec itself; "identity" needs no file.
Result<CodecModel> open_codec(const std::string& name);

}  // namespace nwc::cli
