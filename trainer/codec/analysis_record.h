// The ANALYSIS section: the parts of a codec that encoder and trainer need beside the CODEC section
// (doc/format_codec.md).
#pragma once

#include "trainer/codec/codec_model.h"

namespace nwc {

/// Values per channel of EntropyParameters::matrix, bias and factor.
inline constexpr size_t kEntropyMatrix = 3 + 9 + 9 + 3;
inline constexpr size_t kEntropyBias = 3 + 3 + 3 + 1;
inline constexpr size_t kEntropyFactor = 3 + 3 + 3;
inline constexpr size_t kEntropyQuantiles = 3;

/// Writes g_a, the entropy parameters and the lambdas of `model`.
std::vector<uint8_t> serialize_analysis(const CodecModel& model);
/// Fills analysis, entropy and lambda of `model`, whose record is already there (number of levels).
/// safety: untrusted input. errors: kTruncated, kCorrupt, kUnsupported, naming field and offset
Status parse_analysis(Bytes section, uint64_t file_offset, CodecModel* model);

/// Reads name, CODEC, ANALYSIS and PROVENANCE of a codec or checkpoint file that is already open.
Result<CodecModel> read_codec_sections(const Container& container, const std::string& path);

}  // namespace nwc
