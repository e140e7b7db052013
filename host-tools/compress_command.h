// The parts of `nwc compress`: its options, the settings that follow from them, and its report.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "host-tools/calibration_plan.h"
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
  std::vector<std::string> calib;                                         ///< words of --calib; none: the default
  CalibrationPlan::Kind calibration_kind = CalibrationPlan::Kind::kNone;  ///< what they come to
  std::string imatrix;                                                    ///< file, or empty
  std::shared_ptr<const ColumnPowers> powers;                             ///< what it says of the model
  std::optional<uint64_t> calib_tokens;                                   ///< none: by model and effort
  std::string calibration_cache;
  std::string cache_size = "8G";  ///< of all calibrations in the cache
  CalibrationOptions calibration;
  std::string recovery, shrinkage, distillation, drift;
  std::optional<uint64_t> recovery_tokens;  ///< none: by effort
  std::optional<uint32_t> recovery_epochs;  ///< none: by effort
  uint64_t distill_tokens = 0;              ///< of the calibration's
  uint64_t drift_tokens = 0;                ///< the same
  std::optional<double> rdo;                ///< none: by what is known
  uint32_t effort = 5;
  std::optional<double> kld;   ///< target instead of a rate
  uint64_t measured_from = 0;  ///< byte of the measured text at which the part begins that calibration has not used
  bool estimate = false;
  CompressOptions options;
};

void add_compress_options(Command sub, CompressCommand* command);
/// Sets the options that were not given, by --effort and by the properties of the model.
void apply_effort(CompressCommand* command, const ModelSource& source);
/// Returns all settings that the bytes of the file depend on, in a fixed order.
std::string canonical_settings(const CompressOptions& options, const CompressCommand& command);

/// The file of the text on which the result is compared with the original: --card, else the first text of --calib.
/// Empty: there is none.
std::string measured_text(const CompressCommand& command, const CalibrationPlan& plan);
/// Keeps what is measured apart: of a calibration text that is the measured one, too, calibration uses a first part,
/// and the rest, whose beginning is stored in the command, is measured.
void keep_apart(CompressCommand* command, CalibrationPlan* plan, const std::string& measured);
/// Tokens that a model writes for a command that calibrates it with its own text: those of recovery count, too.
uint64_t written_tokens(const CompressCommand& command);
/// The folder that holds the calibrations of all models and texts.
std::string calibration_root(const CompressCommand& command);

/// Reads the importance matrix into the command, and logs what it covers. errors: those of Imatrix and ColumnPowers,
/// with the file's name
Status read_imatrix(const ModelSource& source, const Context& context, CompressCommand* command);
/// How many of the model's matrices it covers, for a person.
std::string imatrix_line(const CompressCommand& command);
/// What a report says of it.
nlohmann::json imatrix_json(const CompressCommand& command);

nlohmann::json report_json(const CompressReport& report, const CompressCommand& command, uint64_t source_bytes);
void print_report(const CompressReport& report, const CompressCommand& command, const ModelSource& source,
                  const nlohmann::json& json);
/// Warns if the file is larger than its source.
void warn_if_larger(const ModelSource& source, uint64_t file_bytes, const Context& context);

/// --estimate: size, time and memory. Writes nothing. calibration: finished, or null.
Status print_estimate(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                      const CalibrationPlan& plan, const Calibration* calibration, Context& context);

}  // namespace nwc::cli
