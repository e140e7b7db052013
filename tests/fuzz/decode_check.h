// Everything that decodes a tensor, compared: all levels of the CPU, whole tensors and parts of them, all types, and
// products with coded tensors. A difference that doc/format.md does not allow ends the process.
#pragma once

#include <optional>
#include <vector>

#include "runtime/base/cpu_features.h"
#include "runtime/codec/decode_tables.h"
#include "runtime/format/nwc_file.h"

namespace nwc::fuzz {

/// A matrix in double precision, and how far from it a decoder's f32 weights may be.
struct ExactMatrix {
  uint64_t rows = 0, cols = 0;
  std::vector<double> weight, error;  ///< [rows][cols]
};

/// Of a tensor that the scalar decoder can decode; nullopt for others, and where weights come near the end of f32's
/// range.
std::optional<ExactMatrix> exact_matrix(const NwcFile& file, const DecodeTables& tables, size_t tensor);

/// Levels that this machine has.
const std::vector<CpuLevel>& cpu_levels();

/// Compares all decoders of one coded tensor; `choice` decides which rows and vectors are tried.
void check_coded_tensor(const NwcFile& file, const DecodeTables& tables, size_t tensor, uint64_t choice);

}  // namespace nwc::fuzz
