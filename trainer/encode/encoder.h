// Encodes a whole model into one file at a given number of bits per weight.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "trainer/data/model_source.h"
#include "trainer/parallel/ranks.h"
#include "trainer/plan/rate_control.h"
#include "trainer/recover/distill_norms.h"
#include "trainer/recover/recovery.h"
#include "trainer/search/tensor_encode.h"

namespace nwc {

struct CompressOptions {
  double bits = 4;               ///< target of CompressReport::bpw_coded
  uint64_t file_bytes = 0;       ///< target of CompressReport::file_bytes instead, unless 0
  CodingChoices choices;         ///< what needs a calibration is left out without one
  uint64_t min_elements = 4096;  ///< smaller tensors stay raw
  uint32_t threads = 0;          ///< 0: one per hardware thread
  const Calibration* calibration = nullptr;
  const ColumnPowers* powers = nullptr;  ///< of an importance matrix, where there is no calibration
  RecoveryChoices recovery;
  DistillChoices distillation;  ///< of the finished file's gains and biases; with it, vectors are not deflated
  std::string source_name;      ///< PROVENANCE: file or directory name, no path
  std::string settings;         ///< PROVENANCE: the command's options in canonical order
  bool keep_source = true;      ///< SOURCE: what describes the model beside its weights
  std::string scratch;          ///< a folder for what does not fit memory; empty: it is made again where it is needed
  Ranks* ranks = &one_rank();   ///< that share the work, with the same options but for the tokens of recovery
  /// Told what begins, and which share of what is left it takes, about. Progress counts from 0 in each of these stages.
  std::function<void(const char* stage, double share)> stage;
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
  double predicted_kld = 0;   ///< its part of CompressReport::predicted_kld

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
  /// With allocation kFisher: KL divergence of the coded model to second order, nats per token; else 0.
  double predicted_kld = 0;
  /// KL divergence on a part of the text of distillation that it was not trained on; 0: there was none.
  double kld_before_distillation = 0, kld_after_distillation = 0;
  uint32_t levels = 0, tables = 0, passes = 0;
  double seconds = 0;
};

/// Hits the target within 0.02 bits per weight (aims at 0.005) by encoding up to a few times. Weights that need fewer
/// bits than that (ternary or sparse matrices, constants, a generous size) give a smaller file, with a warning in the
/// log. Tensors that cannot be coded are stored as they are; what a user has to know about them is logged, too. Holds
/// few tensors at a time. The file does not depend on the number of threads or ranks; it appears complete or not at
/// all. Rank 0 writes it and has the report; of others' reports only what decides about passes is set. errors:
/// kInvalidArgument (a target below the smallest file: the message says its size in bytes), kIo, kCancelled
Result<CompressReport> compress_model(const ModelSource& source, const CodecModel& codec,
                                      const CompressOptions& options, const std::string& path, const Progress& progress,
                                      const Logger& log);

struct CompressEstimate {
  uint64_t file_bytes = 0;
  double bits = 0;           ///< CompressReport::bpw_coded
  double predicted_kld = 0;  ///< as in CompressReport
  double seconds = 0;        ///< of compress_model, from what coding a sample took on this machine; calibration apart
  uint64_t memory_bytes = 0;
  uint64_t scratch_bytes = 0;  ///< of disk in CompressOptions::scratch while it runs: factors that do not fit memory
};
/// What compress_model would give and take: reads the model, codes a sample of it, writes nothing.
/// errors: as compress_model
Result<CompressEstimate> estimate_compress(const ModelSource& source, const CodecModel& codec,
                                           const CompressOptions& options, const Progress& progress);

}  // namespace nwc
