// A model file whose coded tensors are measured in place of synthetic layers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/bench_report.h"
#include "runtime/codec/tensor_decode.h"

namespace nwc::bench {

struct CodedFile {
  std::unique_ptr<NwcFile> file;
  DecodeTables tables;
  std::vector<size_t> coded;  ///< numbers of the coded tensors
  uint64_t largest = 0;       ///< weights of the largest one
  Record record;              ///< of all of them together: quantizer, bpw, weights

  /// The same as measured with these kernels and threads.
  Record record_with(CpuLevel cpu, const Runner& runner) const;
};
/// Ends the program if there is no such file or nothing coded in it.
CodedFile open_coded_file(const std::string& path);

/// Entropy decoding of one tensor, whose symbols nobody uses.
void decode_symbols(const NwcFile& file, const DecodeTables& tables, size_t tensor, CpuLevel cpu, Runner& runner);

}  // namespace nwc::bench
