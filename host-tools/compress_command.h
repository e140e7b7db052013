// The parts of `nwc compress`: its options, the settings that follow from them, and its report.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "host-tools/cli.h"
#include "trainer/calib/calibration.h"
#include "trainer/data/model_source.h"
#include "trainer/encode/encoder.h"

namespace nwc::cli {

struct CompressCommand {
  std::string model, output, codec = "identity", card_text;
  uint64_t card_tokens = 8192;
  std::string quantizer = "trellis", importance = "waterfill", feedback = "ldlq", allocation = "fisher";
  std::string row_importance = "on", size;
  std::string calibration_text, calibration_cache;
  std::string cache_size = "8G";  ///< of all calibrations in the cache
  CalibrationOptions calibration;
  std::string recovery, shrinkage;
  std::optional<uint64_t> recovery_tokens;  ///< none: by effort
  std::optional<uint32_t> recovery_epochs;  ///< none: by effort
  std::optional<double> rdo;                ///< none: by what is known
  uint32_t effort = 5;
  std::optional<double> kld;   ///< target instead of a rate
  uint64_t measured_from = 0;  ///< byte of the measured text at which the part begins that calibration has not used
  bool estimate = false;
  CompressOptions options;
};

void add_compress_options(CLI::App* sub, CompressCommand* command);
/// Sets the options that were not given, by --effort and by the properties of the model.
void apply_effort(CompressCommand* command, const ModelSource& source);
/// Returns all settings that the bytes of the file depend on, in a fixed order.
std::string canonical_settings(const CompressOptions& options, const CompressCommand& command);

/// The text on which the file is compared with the original; empty: none was given.
const std::string& measured_text(const CompressCommand& command);
/// Returns the part of the calibration text that calibration and recovery use. The quality is measured on the rest,
/// whose beginning is stored in the command. If another text is measured, or none, this is the whole text.
std::string calibration_part(CompressCommand* command, const std::string& text, const std::string& measured);
/// The folder that holds the calibrations of all models and texts.
std::string calibration_root(const CompressCommand& command);

nlohmann::json report_json(const CompressReport& report, const CompressCommand& command, uint64_t source_bytes);
void print_report(const CompressReport& report, const CompressCommand& command, const ModelSource& source,
                  const nlohmann::json& json);
/// Warns if the file is larger than its source.
void warn_if_larger(const ModelSource& source, uint64_t file_bytes, const Context& context);

/// --estimate: size, time and memory. Writes nothing. calibration: finished, or null. calibration_text: what it would
/// be made of; empty: none is asked for.
Status print_estimate(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                      const std::string& calibration_text, const Calibration* calibration, Context& context);

}  // namespace nwc::cli
