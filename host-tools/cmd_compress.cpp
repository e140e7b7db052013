// nwc compress: a model into one .nwc file at a given number of bits per weight.

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"
#include "host-tools/codec_path.h"
#include "host-tools/quality.h"
#include "trainer/data/model_source.h"
#include "trainer/encode/encoder.h"

namespace nwc::cli {
namespace {

struct CompressCommand {
  std::string model, output, codec = "linear", card_text;
  uint64_t card_tokens = 8192;
  CompressOptions options;
};

double bpw(uint64_t bytes, uint64_t weights) {
  return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

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
                     {"relative_error", t.relative_error}});
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
          {"refitted_tables", report.refitted_tables},
          {"passes", report.passes},
          {"seconds", report.seconds},
          {"tensors", std::move(tensors)}};
}

std::string canonical_settings(const CompressCommand& command) {
  return fmt::format("bits={} head_bits={} rdo={} row_scales={} refit_tables={} min_elements={}", command.options.bits,
                     command.options.head_bits, command.options.rdo_strength, command.options.row_scales,
                     command.options.refit_tables, command.options.min_elements);
}

Status compress(CompressCommand& command, Context& context) {
  NWC_ASSIGN_OR_RETURN(const std::string codec_path, find_codec(command.codec));
  NWC_ASSIGN_OR_RETURN(const CodecModel codec, load_codec(codec_path));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, open_model_source(command.model));

  CompressOptions& options = command.options;
  options.threads = context.threads;
  std::filesystem::path path(command.model);
  if (!path.has_filename()) path = path.parent_path();
  options.source_name = path.filename().string();
  options.settings = canonical_settings(command);
  CompressReport report;
  {
    ProgressLine progress(context, "compressing");
    NWC_ASSIGN_OR_RETURN(
        report, compress_model(*source, codec, options, command.output, progress.callback(), context.logger()));
  }
  nlohmann::json json = report_json(report, command, source->stored_bytes());
  if (!command.card_text.empty()) {
    QualityRequest request;
    request.model = command.output;
    request.reference = command.model;
    request.text = command.card_text;
    request.max_tokens = command.card_tokens;
    NWC_ASSIGN_OR_RETURN(const QualityResult quality, measure_quality(request, context));
    NWC_TRY(write_quality_card(command.output, quality));
    json["quality"] = quality_json(quality);
    std::error_code ignored;
    json["file_bytes"] = std::filesystem::file_size(command.output, ignored);
  }
  if (context.json) {
    context.print_json(json);
    return {};
  }
  const uint64_t file_bytes = json["file_bytes"].get<uint64_t>();
  fmt::print("{} -> {}\n", command.model, command.output);
  fmt::print(
      "  {} -> {} ({:.1f} % of the original)\n", format_bytes(source->stored_bytes()), format_bytes(file_bytes),
      100.0 * static_cast<double>(file_bytes) / static_cast<double>(std::max<uint64_t>(1, source->stored_bytes())));
  fmt::print("  {:.4f} bits per coded weight ({} weights, codec {}), {:.4f} over the whole file\n", report.bpw_coded,
             format_count(report.coded_weights), codec.name, report.bpw_file);
  fmt::print("  overhead above the symbols' entropy {:.2f} %, squared error {:.3g} of the weights' power\n",
             json["overhead_percent"].get<double>(), report.relative_error);
  fmt::print("  {:.1f} s, {} passes\n", report.seconds, report.passes);
  if (json.contains("quality"))
    fmt::print("  perplexity {:.3f} (original {:.3f}), KL divergence {:.5f}\n", json["quality"]["ppl"].get<double>(),
               json["quality"]["ppl_reference"].get<double>(), json["quality"]["kld_mean"].get<double>());
  return {};
}

}  // namespace

void add_compress(CLI::App& app, Context& context) {
  auto command = std::make_shared<CompressCommand>();
  CLI::App* sub = app.add_subcommand("compress", "Compress a model into one .nwc file");
  sub->add_option("model", command->model, "Hugging Face folder, .gguf or .safetensors file")->required();
  sub->add_option("-o,--output", command->output, "File to write (.nwc)")->required();
  sub->add_option("-b,--bits", command->options.bits,
                  "Bits per coded weight, everything included; met within 0.02 by real file bytes")
      ->check(CLI::Range(0.1, 16.0))
      ->capture_default_str();
  sub->add_option("-c,--codec", command->codec, "Name of a shipped codec, or a .nwcc file")->capture_default_str();
  sub->add_option("--head-bits", command->options.head_bits,
                  "Bits per weight that embedding and output head get above the rest; --bits is met all the same")
      ->check(CLI::Range(0.0, 8.0))
      ->capture_default_str();
  sub->add_option("--rdo", command->options.rdo_strength,
                  "Rate-distortion optimised rounding; 0: to the nearest, 1: at the slope of the level")
      ->check(CLI::Range(0.0, 4.0))
      ->capture_default_str();
  sub->add_flag("--row-scales", command->options.row_scales, "Store a scale for every row too");
  sub->add_flag("--refit-tables,!--no-refit-tables", command->options.refit_tables,
                "Fit the entropy tables to this model where that saves bytes (default: on)");
  sub->add_option("--min-elements", command->options.min_elements, "Smaller tensors are stored raw")
      ->capture_default_str();
  sub->add_option("--card", command->card_text,
                  "Measure quality against the original on this text, and store it in the file's quality card")
      ->check(CLI::ExistingFile);
  sub->add_option("--card-tokens", command->card_tokens, "Most tokens for --card")->capture_default_str();
  add_common_options(sub, context);
  sub->callback([command, &context] { run_command(context, "compress", [&] { return compress(*command, context); }); });
}

}  // namespace nwc::cli
