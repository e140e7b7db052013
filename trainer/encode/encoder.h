// A whole model into one file at a given number of bits per weight.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "trainer/data/model_source.h"
#include "trainer/encode/rate_control.h"
#include "trainer/encode/tensor_encode.h"

namespace nwc {

/// Quantizes one tensor whose levels are fixed. The default treats columns as independent; error feedback (paper,
/// section 3.4) replaces it. Called tensor by tensor, possibly several times for each (once a pass of rate control).
class TensorQuantizer {
 public:
  struct Job {
    const CodecModel& codec;  ///< the levels in use only
    const TableCosts& costs;
    const Rounding& rounding;
    size_t source;             ///< index of the tensor in the ModelSource
    std::span<const float> w;  ///< [m][n]
    uint64_t m, n;
    TensorScales scales;
    std::vector<uint8_t> level;  ///< [n]
    Runner& runner;
    QuantizeStatistics* statistics;  ///< to be filled in
  };
  virtual ~TensorQuantizer() = default;
  virtual Result<QuantizedTensor> quantize(Job job);
};

struct CompressOptions {
  double bits = 4;       ///< target of CompressReport::bpw_coded
  double head_bits = 1;  ///< how much finer the embedding and the output head are, of a model with a description
  uint64_t min_elements = 4096;  ///< smaller tensors stay raw
  uint32_t threads = 0;          ///< 0: one per hardware thread
  bool row_scales = false;
  double rdo_strength = 0;               ///< Rounding::rdo_strength
  bool refit_tables = true;              ///< to samples of this model; with a linear synthesis, shrinkage and step too
  LevelPolicy* policy = nullptr;         ///< null: uniform (data-free)
  TensorQuantizer* quantizer = nullptr;  ///< null: independent columns
  std::string source_name;               ///< PROVENANCE: file or directory name, no path
  std::string settings;                  ///< PROVENANCE: the command's options in canonical order
  std::string calibration = "none";      ///< PROVENANCE: hash of the calibration text
};

struct TensorReport {
  std::string name;
  Storage storage = Storage::kRaw;
  uint64_t weights = 0;
  uint64_t stored_bytes = 0;   ///< the tensor's bytes in DATA
  uint64_t padding_bytes = 0;  ///< zeros in front of it
  // Coded tensors:
  uint64_t side_bytes = 0, directory_bytes = 0, state_bytes = 0, word_bytes = 0;  ///< add up to stored_bytes
  uint64_t tiles = 0;
  double ideal_bits = 0;      ///< of the values under the tables
  double relative_error = 0;  ///< squared error over squared weights

  double bpw() const { return 8.0 * static_cast<double>(stored_bytes + padding_bytes) / static_cast<double>(weights); }
};

/// file_bytes = metadata_bytes + codec_bytes + sum of all tensors' stored_bytes and padding_bytes, to the byte.
struct CompressReport {
  std::vector<TensorReport> tensors;  ///< in file order
  uint64_t coded_weights = 0, total_weights = 0;
  uint64_t coded_bytes = 0;     ///< coded tensors: stored and padding
  uint64_t codec_bytes = 0;     ///< CODEC as stored
  uint64_t metadata_bytes = 0;  ///< header, section table, MODEL, TOKENIZER, PROVENANCE, TENSORS, gaps between sections
  uint64_t file_bytes = 0;
  double bpw_coded = 0;       ///< 8 (coded_bytes + codec_bytes) / coded_weights
  double bpw_file = 0;        ///< 8 file_bytes / total_weights
  double relative_error = 0;  ///< of all coded tensors
  double quality = 0;         ///< of the level policy
  uint32_t levels = 0, tables = 0, passes = 0;
  bool refitted_tables = false;
  double seconds = 0;
};

/// Hits `bits` within 0.02 (aims at 0.005) by encoding up to a few times. Holds one tensor at a time. The file does not
/// depend on the number of threads; it appears complete or not at all.
/// errors: kInvalidArgument (a rate that the codec does not reach on this model: the message names the range), kCorrupt
/// (NaN or infinity, names the tensor), kIo, kCancelled
Result<CompressReport> compress_model(const ModelSource& source, const CodecModel& codec,
                                      const CompressOptions& options, const std::string& path, const Progress& progress,
                                      const Logger& log);

}  // namespace nwc
