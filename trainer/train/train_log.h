// The log of a training run in JSON lines, and the provenance of the codec that it makes.
#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "trainer/train/trainer.h"

namespace nwc {

/// One JSON object a line: step, epoch, rate (bpw), distortion, loss, seconds, and after a validation "levels" with the
/// figures of each. Numbers are written with six digits; all but "seconds" are reproducible.
class TrainLog {
 public:
  /// Empty path: writes nothing. errors: kIo
  static Result<TrainLog> open(const std::string& path, bool append);
  Status write(const TrainProgress& progress);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
};

/// PROVENANCE of a trained codec: no paths, file names only.
Metadata describe_training(const TrainOptions& options, uint64_t codec_id);

const char* preset_name(Preset preset);

}  // namespace nwc
