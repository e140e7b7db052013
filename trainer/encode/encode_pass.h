// One attempt at a file at a given step: all tensors, coded or as they are, with the sections that describe them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "trainer/codec/container_write.h"
#include "trainer/encode/encoder.h"
#include "trainer/plan/model_plan.h"
#include "trainer/plan/rate_control.h"

namespace nwc {

/// Everything that the passes share.
struct EncodeWork {
  const ModelSource& source;
  const ModelSource* weights;         ///< what is coded: the source, or what recovery made of it
  std::map<size_t, CodedPart> ready;  ///< what recovery has coded already, for the next pass
  bool one_codes = false;             ///< rank 0 alone: it only has what recovery made
  const CompressOptions& options;
  const std::string& path;
  const Progress& progress;
  std::vector<PlannedTensor> plan;
  std::vector<uint8_t> source_section;  ///< empty: none
  std::vector<uint8_t> chat_section;    ///< empty: none
  std::unique_ptr<Runner> runner;

  void begin(const std::string& stage, double share) const {
    if (options.stage) options.stage(stage.c_str(), share);
  }
};

/// One attempt: a complete file that only waits to be committed.
struct EncodePass {
  std::optional<ModelWriter> writer;  ///< on rank 0
  CompressReport report;
  double distortion = 0;  ///< QuantizeStatistics::weighted_error of the whole model
};

/// What of a file's size is none of the codec's business, but for the metadata. errors: kIo
Result<uint64_t> raw_stored_bytes(const EncodeWork& work);

/// Rank 0 writes what all ranks code. All get what decides about the next pass. `rate` and `fitted` are null if no
/// tensor is coded. errors: kCancelled, kIo, those of PartCoder
Result<EncodePass> encode_pass(EncodeWork& work, RateModel* rate, const FittedCodec* fitted, double log_step);

}  // namespace nwc
