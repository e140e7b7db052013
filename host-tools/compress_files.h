// The files that nwc compress makes: one at a given rate, or several until one has the KL divergence that is asked for.
#pragma once

#include <string>

#include "host-tools/compress_command.h"
#include "host-tools/quality.h"

namespace nwc::cli {

struct MeasuredFile {
  CompressReport report;
  QualityResult quality;
};

/// compress_model with its stages on the progress line, which says what an interrupted run had done already. share: of
/// what is left of the command.
Result<CompressReport> compress_once(const CompressOptions& wanted, const ModelSource& source, const CodecModel& codec,
                                     const std::string& path, const std::string& label, double share,
                                     const Context& context);

/// Looks for the rate whose measured KL divergence is command.kld: each bit less multiplies it by about 4. The
/// output is written only if that succeeds. errors: kInvalidArgument (no rate reaches it), those of encoding and
/// measuring
Result<MeasuredFile> reach_kld(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                               QualityRequest request, const Context& context);

/// What other ranks than the first do: their share of every file that it makes.
Status help_compress(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                     const Context& context);

}  // namespace nwc::cli
