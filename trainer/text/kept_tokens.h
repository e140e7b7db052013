// Tokens that took long to make, kept in a file.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

/// Returns the tokens in the file at `path`, or, where there is no whole one with tokens below `vocab`, what `make`
/// makes, and keeps that. An empty path: nothing is kept. The file: "NWCTOKEN", their number (u64), the tokens (u32),
/// CRC-32 of these (u32), little-endian. errors: those of make; kIo (writing)
Result<std::vector<uint32_t>> kept_tokens(const std::string& path, uint32_t vocab,
                                          const std::function<Result<std::vector<uint32_t>>()>& make);

}  // namespace nwc
