// nwc decompress: from a .nwc file back to a folder, safetensors or GGUF that other tools load.

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "host-tools/cli.h"
#include "host-tools/model_input.h"
#include "host-tools/output_name.h"
#include "runtime/base/os.h"
#include "trainer/data/atomic_folder.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/gguf_mix.h"
#include "trainer/data/source_record.h"
#include "trainer/inspect/decompress.h"

namespace nwc::cli {
namespace {

struct DecompressCommand {
  std::string input, output, format = "auto", type = "original", max_shard_size;
  DeviceOptions device;
};

enum class OutputFormat { kSafetensors, kGguf, kFolder };

OutputFormat output_format(const DecompressCommand& command) {
  std::error_code ignored;
  const std::string& path = command.output;
  if (command.format == "gguf") return OutputFormat::kGguf;
  if (command.format == "folder") return OutputFormat::kFolder;
  if (command.format == "safetensors") return OutputFormat::kSafetensors;
  if (os::name_begin(path) == path.size() || std::filesystem::is_directory(fs_path(path), ignored))
    return OutputFormat::kFolder;
  return has_ending(path, ".gguf") ? OutputFormat::kGguf : OutputFormat::kSafetensors;
}

const char* format_name(OutputFormat format) {
  switch (format) {
    case OutputFormat::kSafetensors: return "safetensors";
    case OutputFormat::kGguf: return "gguf";
    case OutputFormat::kFolder: return "folder";
  }
  return "?";
}

/// Of a file, of the files in a folder, or of those that an index names.
uint64_t written_bytes(const std::string& path, uint64_t max_shard_bytes) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  uint64_t sum = 0;
  if (fs::is_directory(fs_path(path), ignored)) {
    for (const auto& entry : fs::directory_iterator(fs_path(path), ignored)) sum += entry.file_size(ignored);
    return sum;
  }
  const std::string index = path + ".index.json";
  std::ifstream file(fs_path(index));
  if (max_shard_bytes == 0 || !file) return fs::file_size(fs_path(path), ignored);
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  std::set<std::string> names;
  if (json.contains("weight_map")) {
    for (const auto& name : json["weight_map"]) names.insert(name.get<std::string>());
  }
  for (const std::string& name : names) sum += fs::file_size(fs_path(path).replace_filename(fs_path(name)), ignored);
  return sum + fs::file_size(fs_path(index), ignored);
}

/// What is known of the source beside its weights: from the uncompressed model itself, or as the .nwc file keeps it.
Result<std::optional<SourceRecord>> find_source(const ModelSource* model, const NwcFile& file, const Logger& log) {
  if (model == nullptr) {
    Result<std::optional<SourceRecord>> kept = load_source_record(file.container());
    if (kept.status().code() != StatusCode::kUnsupported) return kept;
    log.log(LogLevel::kWarning, kept.status().message() + "; what it keeps of the source is left out");
    return std::optional<SourceRecord>();
  }
  NWC_ASSIGN_OR_RETURN(SourceFiles files, model->source_files());
  for (const std::string& reason : files.left_out) log.log(LogLevel::kWarning, reason);
  if (files.record.files.empty()) return std::optional<SourceRecord>();
  return std::optional<SourceRecord>(std::move(files.record));
}

/// What the options ask for, checked before any work. max_shard_bytes: 0 where one file is asked for.
Status check_options(const DecompressCommand& command, OutputFormat format, uint64_t* max_shard_bytes) {
  const GgufFileType* type = find_gguf_file_type(command.type);
  if (type != nullptr && type->quantized() && format != OutputFormat::kGguf)
    return invalid_argument("--type " + command.type +
                            " is a type of GGUF files; name the output .gguf, or choose f32, "
                            "f16 or bf16");
  if (command.max_shard_size.empty()) return {};
  if (format == OutputFormat::kGguf)
    return invalid_argument("--max-shard-size is for folders and safetensors; llama.cpp's gguf-split cuts GGUF files");
  NWC_ASSIGN_OR_RETURN(*max_shard_bytes, parse_bytes(command.max_shard_size));
  if (*max_shard_bytes == 0) return invalid_argument("--max-shard-size 0: leave it out for one file");
  if (format == OutputFormat::kSafetensors && !command.output.ends_with(".safetensors"))
    return invalid_argument("--max-shard-size puts numbers before .safetensors, which has to end the output's name");
  return {};
}

Status decompress(const DecompressCommand& command, Context& context) {
  const auto start = std::chrono::steady_clock::now();
  const OutputFormat format = output_format(command);
  uint64_t max_shard_bytes = 0;
  NWC_TRY(check_options(command, format, &max_shard_bytes));
  if (format == OutputFormat::kFolder) {
    (void)interrupted();                           // from here on, for a folder is made and removed
    NWC_TRY(AtomicFolder::check(command.output));  // new or empty, so that the input is not in it
  } else {
    const Output output{command.output};
    NWC_TRY(check_before_work({&output, 1}, {&command.input, 1}));
    if (command.format == "auto")
      NWC_TRY(check_output_name(command.output, {".safetensors", ".gguf"},
                                "name it FOLDER/, .safetensors or .gguf, or say with --format what it is to be"));
  }
  NWC_ASSIGN_OR_RETURN(ModelInput input, open_model_input(command.input, context));
  Result<std::unique_ptr<NwcFile>> opened = NwcFile::open(std::move(input.reader));
  if (!opened.ok()) return opened.status().with_context(command.input);
  const NwcFile& file = *opened.value();
  NWC_ASSIGN_OR_RETURN(const DecoderHandle decoder, make_decoder(file, command.device, context));
  std::optional<Dtype> dtype;
  const GgufFileType* type = find_gguf_file_type(command.type);
  if (type != nullptr) dtype = type->plain_dtype();
  std::optional<SourceRecord> source;
  if (format != OutputFormat::kSafetensors) {
    NWC_ASSIGN_OR_RETURN(source, find_source(input.source.get(), file, context.logger()));
  }
  const SourceRecord* known = source ? &*source : nullptr;
  std::vector<std::string> notes;
  {
    ProgressLine progress(context, "decompressing");
    switch (format) {
      case OutputFormat::kSafetensors:
        NWC_TRY(
            decompress_model(file, *decoder.decoder, dtype, command.output, progress.callback(), {}, max_shard_bytes));
        break;
      case OutputFormat::kGguf:
        NWC_TRY(decompress_to_gguf(file, *decoder.decoder, *decoder.runner, known, type, command.output,
                                   progress.callback(), &notes));
        break;
      case OutputFormat::kFolder:
        NWC_TRY(decompress_to_folder(file, *decoder.decoder, known, dtype, command.output, progress.callback(), &notes,
                                     max_shard_bytes));
        break;
    }
  }
  for (const std::string& note : notes) context.logger().log(LogLevel::kWarning, note);
  const uint64_t bytes = written_bytes(command.output, max_shard_bytes);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (context.json)
    context.print_json({{"output", command.output},
                        {"bytes", bytes},
                        {"format", format_name(format)},
                        {"tensors", file.tensors().size()},
                        {"notes", notes},
                        {"device", decoder.decoder->name()},
                        {"seconds", seconds}});
  else
    fmt::print("wrote {}: {} tensors, {}, decoded by {} in {:.2f} s\n", command.output, file.tensors().size(),
               format_bytes(bytes), decoder.decoder->name(), seconds);
  return {};
}

}  // namespace

void add_decompress(CommandLine& line, Context& context) {
  auto command = std::make_shared<DecompressCommand>();
  Command sub = line.add_command("decompress", "Decode a .nwc file to a folder, safetensors or GGUF");
  sub.add_option("input", command->input, ".nwc file (an uncompressed model is converted)").required();
  sub.add_option("-o,--output", command->output,
                 "FOLDER/ as transformers loads it (new or empty), or a .gguf or .safetensors file")
      .required();
  sub.add_option("--format", command->format, "folder, safetensors or gguf; auto: by the output's name")
      .one_of({"auto", "folder", "safetensors", "gguf"})
      .show_default();
  sub.add_option("--type,--dtype", command->type,
                 "original (each tensor's own; f16 in place of a GGUF's quantized types), f32, f16 or bf16; of a GGUF "
                 "also q8_0, q6_k, q5_k_m or q4_k_m, as llama.cpp quantizes it")
      .one_of({"original", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"})
      .show_default();
  sub.add_option("--max-shard-size", command->max_shard_size,
                 "Begin another .safetensors file before one holds more than this (5G, 500M; powers of 1024), with an "
                 "index as transformers reads it");
  add_device_options(sub, command->device);
  add_common_options(sub, context);
  sub.on_run(
      [command, &context] { run_command(context, "decompress", [&] { return decompress(*command, context); }); });
}

}  // namespace nwc::cli
