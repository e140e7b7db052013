// What `nwc compress` says of a finished file.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "host-tools/compress_command.h"

namespace nwc::cli {
namespace {

double bpw(uint64_t bytes, uint64_t weights) {
  return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

}  // namespace

nlohmann::json report_json(const CompressReport& report, const CompressCommand& command, uint64_t source_bytes) {
  nlohmann::json tensors = nlohmann::json::array();
  double ideal_bits = 0;
  for (const TensorReport& t : report.tensors) {
    nlohmann::json tensor = {{"name", t.name},
                             {"storage", t.storage == Storage::kCoded ? "coded" : "raw"},
                             {"weights", t.weights},
                             {"stored_bytes", t.stored_bytes},
                             {"padding_bytes", t.padding_bytes}};
    if (t.storage == Storage::kCoded) {
      tensor.update({{"bpw", t.bpw()},
                     {"ideal_bits", t.ideal_bits},
                     {"side_bytes", t.side_bytes},
                     {"directory_bytes", t.directory_bytes},
                     {"state_bytes", t.state_bytes},
                     {"word_bytes", t.word_bytes},
                     {"relative_error", t.relative_error},
                     {"predicted_kld", t.predicted_kld}});
      ideal_bits += t.ideal_bits;
    }
    tensors.push_back(std::move(tensor));
  }
  const double coded_bits = 8.0 * static_cast<double>(report.coded_bytes + report.codec_bytes);
  return {{"output", command.output},
          {"codec", command.codec},
          {"bits", command.options.bits},
          {"bpw_coded", report.bpw_coded},
          {"bpw_file", report.bpw_file},
          {"bpw_codec", bpw(report.codec_bytes, report.coded_weights)},
          {"bpw_ideal", report.coded_weights == 0 ? 0 : ideal_bits / static_cast<double>(report.coded_weights)},
          {"overhead_percent", ideal_bits > 0 ? 100 * (coded_bits / ideal_bits - 1) : 0},
          {"source_bytes", source_bytes},
          {"file_bytes", report.file_bytes},
          {"coded_bytes", report.coded_bytes},
          {"codec_bytes", report.codec_bytes},
          {"metadata_bytes", report.metadata_bytes},
          {"coded_weights", report.coded_weights},
          {"total_weights", report.total_weights},
          {"relative_error", report.relative_error},
          {"levels", report.levels},
          {"tables", report.tables},
          {"predicted_kld", report.predicted_kld},
          {"kld_before_distillation", report.kld_before_distillation},
          {"kld_after_distillation", report.kld_after_distillation},
          {"passes", report.passes},
          {"seconds", report.seconds},
          {"tensors", std::move(tensors)}};
}

void warn_if_larger(const ModelSource& source, uint64_t file_bytes, const Context& context) {
  if (file_bytes <= source.stored_bytes()) return;
  uint64_t weights = 0;
  for (const SourceTensor& tensor : source.tensors()) weights += tensor.num_elements();
  std::string why = "what a file holds beside its weights takes more than coding saves";
  constexpr double kUnquantizedBits = 16;
  if (const double bits = bpw(source.stored_bytes(), weights); weights > 0 && bits < kUnquantizedBits) {
    why = fmt::format("the weights are already quantized at {:.2f} bits there; ask for fewer", bits);
  }
  context.logger().log(LogLevel::kWarning,
                       fmt::format("the result is larger than the source, {} bytes from {}: {}",
                                   format_count(file_bytes), format_count(source.stored_bytes()), why));
}

void print_report(const CompressReport& report, const CompressCommand& command, const ModelSource& source,
                  const nlohmann::json& json) {
  const uint64_t file_bytes = json["file_bytes"].get<uint64_t>();
  fmt::print("{} -> {}\n", command.model, command.output);
  fmt::print(
      "  {} -> {} ({:.1f} % of the original)\n", format_bytes(source.stored_bytes()), format_bytes(file_bytes),
      100.0 * static_cast<double>(file_bytes) / static_cast<double>(std::max<uint64_t>(1, source.stored_bytes())));
  fmt::print("  {:.4f} bits per coded weight ({} weights, codec {}), {:.4f} over the whole file\n", report.bpw_coded,
             format_count(report.coded_weights), json["codec_name"].get<std::string>(), report.bpw_file);
  fmt::print("  overhead above the symbols' entropy {:.2f} %, ", json["overhead_percent"].get<double>());
  // Error that costs nothing is let grow: only the predicted divergence says how good a calibrated file is.
  if (report.predicted_kld > 0) {
    fmt::print("predicted KL divergence {:.5f} nats per token\n", report.predicted_kld);
  } else {
    fmt::print("squared error {:.3g} of the weights' power\n", report.relative_error);
  }
  if (report.kld_before_distillation > 0)
    fmt::print("  gains and biases tuned: KL divergence {:.5f} before, {:.5f} after, on text kept apart\n",
               report.kld_before_distillation, report.kld_after_distillation);
  fmt::print("  {:.1f} s, the weights were coded {}\n", report.seconds,
             report.passes == 1 ? "once" : fmt::format("{} times until the size was right", report.passes));
  if (json.contains("quality"))
    fmt::print("  measured on {}{}: KL divergence {:.5f} nats per token, perplexity {:.3f} (original {:.3f})\n",
               json["quality"]["text"].get<std::string>(),
               command.measured_from != 0 ? ", its last part, which calibration has not used" : "",
               json["quality"]["kld_mean"].get<double>(), json["quality"]["ppl"].get<double>(),
               json["quality"]["ppl_reference"].get<double>());
  if (command.powers != nullptr) fmt::print("  {}\n", imatrix_line(command));
  if (json.contains("calibration"))
    fmt::print("  calibration: {} in {}, for further files of this model and text\n",
               format_bytes(json["calibration"]["bytes"].get<uint64_t>()),
               json["calibration"]["folder"].get<std::string>());
}

}  // namespace nwc::cli
