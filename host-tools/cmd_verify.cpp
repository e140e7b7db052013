// nwc verify: every byte of a file, one backend against another, and the quality card against a new measurement.

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"
#include "host-tools/decode_speed.h"
#include "host-tools/model_input.h"
#include "host-tools/quality.h"
#include "trainer/codec/codec_model.h"
#include "trainer/inspect/verify.h"

namespace nwc::cli {
namespace {

struct VerifyCommand {
  std::string path, reference, text;
  DeviceOptions device;
  bool quality = false, speed = true;
};

// Counts the errors that a decoder logs: with --validation these are the validation layer's messages.
struct ErrorCounter {
  Logger next;
  uint64_t errors = 0;
  Logger logger() {
    return {[](void* user, LogLevel level, const char* message) {
              auto* counter = static_cast<ErrorCounter*>(user);
              if (level == LogLevel::kError) ++counter->errors;
              counter->next.log(level, message);
            },
            this};
  }
};

// The card's figures depend on the machine only through the rounding of sums: 0.1 % of the perplexity, 2 % of the
// divergence.
bool close(double a, double b, double relative, double absolute) {
  return std::abs(a - b) <= std::max(absolute, relative * std::abs(b));
}

Status check_quality(const VerifyCommand& command, const NwcFile& file, const Context& context, nlohmann::json* out) {
  const Metadata& card = file.quality();
  const auto value = [&](const char* key) {
    const auto it = card.find(key);
    return it == card.end() ? std::string() : it->second;
  };
  QualityRequest request;
  request.model = command.path;
  request.reference = command.reference;
  request.text = command.text;
  request.text_begin = std::strtoull(value("text_begin").c_str(), nullptr, 10);
  request.context = static_cast<uint32_t>(std::strtoul(value("context").c_str(), nullptr, 10));
  request.max_tokens = std::strtoull(value("text_tokens").c_str(), nullptr, 10);
  request.params.weight_dtype = request.params.kv_dtype = Dtype::kF32;
  NWC_ASSIGN_OR_RETURN(const QualityResult now, measure_quality(request, context));
  if (fmt::format("{:08x}", now.text_crc32) != value("text_crc32"))
    return invalid_argument(command.text + " is not the text of the quality card (" + value("text") + ")");
  const Evaluation& e = now.evaluation;
  const auto number = [&](const char* key) { return std::strtod(value(key).c_str(), nullptr); };
  const bool matches =
      close(e.perplexity, number("ppl"), 1e-3, 0) && close(e.reference_perplexity, number("ppl_reference"), 1e-3, 0) &&
      close(e.kld_mean, number("kld_mean"), 0.02, 1e-5) && close(e.same_top, number("same_top"), 0, 0.005);
  nlohmann::json stored;
  for (const auto& [key, text] : card) stored[key] = text;
  *out = {{"matches", matches}, {"card", stored}, {"measured", quality_json(now)}};
  return {};
}

Status verify_codec(const VerifyCommand& command, const Context& context) {
  NWC_ASSIGN_OR_RETURN(const CodecModel codec, load_codec(command.path));
  if (context.json)
    context.print_json({{"ok", true},
                        {"file", command.path},
                        {"kind", "codec"},
                        {"codec_id", fmt::format("{:016x}", codec.record.codec_id)}});
  else
    fmt::print("{}: codec, all sections are correct\n", command.path);
  return {};
}

Status verify(const VerifyCommand& command, Context& context) {
  NWC_TRY(check_device_options(command.device));
  if (command.quality && (command.reference.empty() || command.text.empty()))
    return invalid_argument("--quality measures again: it needs --reference MODEL and --text FILE");
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(command.path));
  {
    const Result<Container> container = Container::open(*reader);
    if (!container.ok()) return container.status().with_context(command.path);
    if (container->kind() == FileKind::kCodec) return verify_codec(command, context);
  }
  Result<std::unique_ptr<NwcFile>> opened = NwcFile::open(std::move(reader));
  if (!opened.ok()) return opened.status().with_context(command.path);
  const NwcFile& file = *opened.value();
  if (command.quality && file.quality().empty())
    return Status(StatusCode::kNotFound, command.path + ": has no quality card");

  DeviceOptions cpu;
  NWC_ASSIGN_OR_RETURN(const DecoderHandle reference, make_decoder(file, cpu, context));
  ErrorCounter counter{context.logger()};
  const Logger counting = counter.logger();
  DecoderHandle other;
  if (command.device.backend != "cpu") {
    NWC_ASSIGN_OR_RETURN(other, make_decoder(file, command.device, context, &counting));
  }
  VerifyReport report;
  {
    ProgressLine progress(context, "verifying");
    Result<VerifyReport> result = verify_model(file, *reference.decoder, other.decoder.get(), progress.callback());
    if (!result.ok()) return result.status().with_context(command.path);
    report = std::move(result).value();
  }
  Decoder& measured = other.decoder ? *other.decoder : *reference.decoder;
  nlohmann::json json = {{"ok", report.decoders_agree()},
                         {"file", command.path},
                         {"kind", "model"},
                         {"bytes", report.bytes},
                         {"weights", report.weights},
                         {"sections", report.sections},
                         {"tensors", report.tensors},
                         {"coded_tensors", report.coded_tensors},
                         {"tiles", report.tiles},
                         {"unknown_records", report.unknown_records},
                         {"device", measured.name()}};
  for (const std::string& unknown : report.unknown_records) {
    context.logger().log(LogLevel::kWarning, "not checked: " + unknown);
  }
  double worst = 0;
  uint64_t different = 0;
  if (other.decoder) {
    nlohmann::json tensors = nlohmann::json::array();
    for (const TensorComparison& c : report.comparisons) {
      tensors.push_back({{"name", c.name}, {"different_values", c.different_values}, {"worst", c.worst}});
      worst = std::max(worst, c.worst);
      different += c.different_values;
    }
    json.update({{"reference_device", reference.decoder->name()},
                 {"different_values", different},
                 {"worst_tolerance", worst},
                 {"comparisons", std::move(tensors)}});
  }
  DecodeSpeed speed;
  if (command.speed) {
    NWC_ASSIGN_OR_RETURN(speed, measure_decode_speed(file, measured));
    json.update({{"decoded_bytes_per_second", speed.bytes_per_second()},
                 {"memcpy_ratio", speed.memcpy_ratio()},
                 {"speed_passes", speed.passes},
                 {"speed_weights", speed.weights}});
  }
  if (command.quality) {
    nlohmann::json quality;
    NWC_TRY(check_quality(command, file, context, &quality));
    if (!quality["matches"].get<bool>()) json["ok"] = false;
    json["quality"] = std::move(quality);
  }
  if (command.device.validation) json["validation_messages"] = counter.errors;
  if (counter.errors != 0) json["ok"] = false;
  const bool ok = json["ok"].get<bool>();
  if (context.json) {
    context.print_json(json);
  } else {
    fmt::print("{}: {} in {} sections, {} tensors ({} coded, {} tiles): every checksum and end state is correct\n",
               command.path, format_bytes(report.bytes), report.sections, report.tensors, report.coded_tensors,
               report.tiles);
    if (other.decoder)
      fmt::print("  {} against {}: {} of {} tensors, {} different values, weights within {:.3f} of the tolerance\n",
                 measured.name(), reference.decoder->name(), report.comparisons.size(), report.coded_tensors, different,
                 worst);
    if (command.speed && speed.weights != 0)
      fmt::print("  {}: {:.3g} million weights per second, {:.3g} % of memcpy\n", measured.name(),
                 speed.bytes_per_second() / 2e6, 100 * speed.memcpy_ratio());
    if (command.quality) fmt::print("  quality card: {}\n", ok ? "measured again and confirmed" : "NOT confirmed");
  }
  if (ok) return {};
  if (counter.errors != 0)
    return Status(StatusCode::kDevice,
                  command.path + ": " + std::to_string(counter.errors) + " errors were logged while decoding");
  return Status(StatusCode::kDevice, command.path + (different != 0 || !report.decoders_agree()
                                                         ? ": " + measured.name() + " decodes other weights than " +
                                                               reference.decoder->name()
                                                         : ": the quality card is not confirmed"));
}

}  // namespace

void add_verify(CommandLine& line, Context& context) {
  auto command = std::make_shared<VerifyCommand>();
  Command sub = line.add_command("verify", "Check every byte of a file, and one backend against another");
  sub.add_option("file", command->path, ".nwc or .nwcc file").required();
  add_device_options(sub, command->device);
  sub.add_flag("--validation", command->device.validation,
               "Run Vulkan under its validation layer; a message is a failure");
  sub.add_flag("--speed,!--no-speed", command->speed, "Also measure decoding against memcpy (default: on)");
  Option quality =
      sub.add_flag("--quality", command->quality, "Measure the quality card again (needs --reference and --text)");
  sub.add_option("--reference", command->reference, "The uncompressed model, for --quality").needs(quality);
  sub.add_option("--text", command->text, "The card's text, for --quality").existing_file().needs(quality);
  add_common_options(sub, context);
  sub.on_run([command, &context] { run_command(context, "verify", [&] { return verify(*command, context); }); });
}

}  // namespace nwc::cli
