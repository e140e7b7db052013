// nwc decompress: from a .nwc file back to safetensors or GGUF that other tools load.

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"
#include "host-tools/model_input.h"
#include "trainer/data/output_path.h"
#include "trainer/inspect/decompress.h"

namespace nwc::cli {
namespace {

struct DecompressCommand {
  std::string input, output, format = "auto", dtype = "original";
  DeviceOptions device;
};

Status decompress(const DecompressCommand& command, Context& context) {
  const auto start = std::chrono::steady_clock::now();
  const Output output{command.output};
  NWC_TRY(check_outputs({&output, 1}, {&command.input, 1}));
  NWC_ASSIGN_OR_RETURN(ModelInput input, open_model_input(command.input, context.threads));
  Result<std::unique_ptr<NwcFile>> opened = NwcFile::open(std::move(input.reader));
  if (!opened.ok()) return opened.status().with_context(command.input);
  const NwcFile& file = *opened.value();
  NWC_ASSIGN_OR_RETURN(const DecoderHandle decoder, make_decoder(file, command.device, context));
  std::optional<Dtype> dtype;
  if (command.dtype == "f32") dtype = Dtype::kF32;
  if (command.dtype == "f16") dtype = Dtype::kF16;
  if (command.dtype == "bf16") dtype = Dtype::kBf16;
  const bool gguf = command.format == "gguf" || (command.format == "auto" && command.output.ends_with(".gguf"));
  size_t tensors = file.tensors().size();
  {
    ProgressLine progress(context, "decompressing");
    if (gguf) {
      std::vector<std::string> left_out;
      NWC_TRY(decompress_to_gguf(file, *decoder.decoder, dtype.value_or(Dtype::kF16), command.output,
                                 progress.callback(), &left_out));
      tensors -= left_out.size();
      for (const std::string& name : left_out) {
        context.logger().log(LogLevel::kWarning, "left out: tensor \"" + name + "\", which llama.cpp does not know");
      }
    } else {
      NWC_TRY(decompress_model(file, *decoder.decoder, dtype, command.output, progress.callback()));
    }
  }
  std::error_code ignored;
  const uint64_t bytes = std::filesystem::file_size(command.output, ignored);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (context.json)
    context.print_json({{"output", command.output},
                        {"bytes", bytes},
                        {"format", gguf ? "gguf" : "safetensors"},
                        {"tensors", tensors},
                        {"device", decoder.decoder->name()},
                        {"seconds", seconds}});
  else
    fmt::print("wrote {}: {} tensors, {}, decoded by {} in {:.2f} s\n", command.output, tensors, format_bytes(bytes),
               decoder.decoder->name(), seconds);
  return {};
}

}  // namespace

void add_decompress(CLI::App& app, Context& context) {
  auto command = std::make_shared<DecompressCommand>();
  CLI::App* sub = app.add_subcommand("decompress", "Decode a .nwc file to safetensors or GGUF");
  sub->add_option("input", command->input, ".nwc file (an uncompressed model is converted)")->required();
  sub->add_option("-o,--output", command->output, "File to write (.safetensors or .gguf)")->required();
  sub->add_option("--format", command->format, "safetensors or gguf (Llama family); auto: by the output's name")
      ->check(CLI::IsMember({"auto", "safetensors", "gguf"}))
      ->capture_default_str();
  sub->add_option("--dtype", command->dtype, "original (each tensor's own; in GGUF f16), f32, f16 or bf16")
      ->check(CLI::IsMember({"original", "f32", "f16", "bf16"}))
      ->capture_default_str();
  add_device_options(sub, command->device);
  add_common_options(sub, context);
  sub->callback(
      [command, &context] { run_command(context, "decompress", [&] { return decompress(*command, context); }); });
}

}  // namespace nwc::cli
