// Measures the quality of a compressed model against its original, for `nwc eval` and for the quality card.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "host-tools/cli.h"
#include "host-tools/model_input.h"
#include "trainer/eval/evaluate.h"

namespace nwc::cli {

struct QualityRequest {
  std::string model, reference;  ///< reference: empty for perplexity alone
  std::string text;              ///< UTF-8 file
  uint64_t text_begin = 0;       ///< bytes of it to pass over
  /// Not empty: these are measured on, in windows of `context`, and there is no file: a text that the model has
  /// written.
  std::vector<uint32_t> tokens;
  uint32_t context = 0;     ///< 0: min(2048, the model's)
  uint64_t max_tokens = 0;  ///< predicted tokens; 0: all
  SessionParams params;     ///< of the model; the reference is always resident and f32
  DeviceOptions device;
};

struct QualityResult {
  Evaluation evaluation;
  bool has_reference = false;
  std::string model, reference, text;  ///< file names without folders
  uint64_t text_begin = 0;             ///< bytes of it that were passed over
  uint32_t text_crc32 = 0;             ///< of the rest
  uint64_t text_tokens = 0;            ///< tokens of the text that were used, predicted or not
  uint64_t file_bytes = 0;
  double bpw_coded = 0, bpw_file = 0;
  std::string device;
  double seconds = 0;
};

/// A whole text file. errors: kIo, kLimit (over 1 GiB)
Result<std::string> read_text(const std::string& path);

/// share: of what is left of the command, for its progress.
Result<QualityResult> measure_quality(const QualityRequest& request, const Context& context, double share = 1);
/// Returns the offset of the part of a text that calibration does not use, so that `tokens` tokens of it can be
/// measured (0: no limit). This part is the last fifth, or less if that surely has enough tokens. It begins with a
/// line, or a word.
uint64_t held_out_begin(const std::string& text, uint64_t tokens);
nlohmann::json quality_json(const QualityResult& result);
/// Checks before the measurement that write_quality_card will be able to write: `path` is a .nwc model and writable.
Status check_quality_card(const std::string& path);
/// Replaces the file's QUALITY section (doc/format.md, section 9). Atomic.
Status write_quality_card(const std::string& path, const QualityResult& result);

}  // namespace nwc::cli
