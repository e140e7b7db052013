// Checks every byte of a model file, and one decoder against another.
#pragma once

#include <string>
#include <vector>

#include "runtime/decoder/decoder.h"

namespace nwc {

struct TensorComparison {
  std::string name;
  uint64_t different_values = 0;  ///< integers that are not the same: must be 0
  double worst = 0;               ///< largest difference of a weight, in tolerances of doc/format.md section 5.5
};

struct VerifyReport {
  uint64_t sections = 0, tensors = 0, coded_tensors = 0, tiles = 0, bytes = 0, weights = 0;
  std::vector<TensorComparison> comparisons;  ///< with a second decoder: one for each coded tensor
  /// One message for each of MODEL and TOKENIZER whose record this build does not know: its checksum was checked, its
  /// contents were not.
  std::vector<std::string> unknown_records;

  /// Values equal and weights within tolerance everywhere.
  bool decoders_agree() const;
};

/// Checks header and metadata, the CRC-32 of every section and tile, that gaps are zero, that every rANS stream ends in
/// its start state, that MODEL and TOKENIZER hold what they may, and that every coded tensor is finite. With `other`:
/// every coded tensor's integers must be the same
/// from both decoders, and its f32 weights within the tolerance; differences are reported, not an error.
/// `decoder` and `other` decode `file`. progress: in weights.
/// errors: kChecksum, kCorrupt, kTruncated (name section, tensor, tile or offset), kIo, kCancelled
Result<VerifyReport> verify_model(const NwcFile& file, Decoder& decoder, Decoder* other, const Progress& progress);

}  // namespace nwc
