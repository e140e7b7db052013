// Coded tensors with symbols drawn from their tables, so that a benchmark needs neither model nor encoder.
#pragma once

#include <memory>

#include "bench/bench_report.h"
#include "runtime/codec/decode_tables.h"
#include "runtime/format/nwc_file.h"

namespace nwc::bench {

struct SyntheticOptions {
  uint64_t rows = 4096, cols = 4096;
  double bits = 4;                  ///< per weight, about
  std::string preset = "identity";  ///< identity, linear, small, paper
  bool trellis = true;
  bool mixed_levels = false;  ///< adjacent columns of any of 8 levels: many tables in every step
  bool row_classes = false;   ///< contexts are classes of rows instead of channels
  bool fitted = false;        ///< tables end where values do, as an encoder's: so integers fit their bits

  SyntheticOptions with(double new_bits, const std::string& new_preset, bool new_trellis, bool new_row_classes,
                        bool new_mixed_levels) const {
    return {rows, cols, new_bits, new_preset, new_trellis, new_mixed_levels, new_row_classes, fitted};
  }
};

/// The codec of all synthetic tensors with these options; rows and columns do not matter.
CodecRecord synthetic_codec(const SyntheticOptions& options);

/// A file of one tensor, or of copies of it, in tiles as the encoder makes them.
struct SyntheticModel {
  CodecRecord codec;
  std::vector<uint8_t> bytes;
  std::unique_ptr<NwcFile> file;
  DecodeTables tables;
  Record record;  ///< preset, quantizer, bpw, weights of one copy
};
std::unique_ptr<SyntheticModel> make_synthetic(const SyntheticOptions& options, uint32_t copies = 1);

}  // namespace nwc::bench
