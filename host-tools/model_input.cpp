#include "host-tools/model_input.h"

#include <algorithm>
#include <filesystem>

#include "host-tools/user_cache.h"
#include "trainer/data/fs_path.h"
#include "trainer/encode/raw_image.h"

namespace nwc::cli {
namespace {

/// The folder, made where it is missing; empty: none.
std::string shader_cache(const std::string& named) {
  if (named == "none") return "";
  std::string folder = named.empty() ? user_cache_folder() : named;
  if (folder.empty()) return "";
  std::error_code ignored;  // the decoder says what is wrong with it
  std::filesystem::create_directories(fs_path(folder), ignored);
  return folder;
}

}  // namespace

void warn_of_notes(const std::string& path, const SourceNotes& notes, const Context& context) {
  for (const SourceNote& note : notes) context.warn_once(path + ": " + describe(note));
}

Result<ModelInput> open_model_input(const std::string& path, const Context& context) {
  ModelInput input;
  input.path = path;
  std::error_code ignored;
  if (std::filesystem::is_regular_file(fs_path(path), ignored)) {
    NWC_ASSIGN_OR_RETURN(input.reader, open_file_reader(path));
    uint8_t magic[sizeof kMagic];
    if (input.reader->size() >= sizeof magic) {
      NWC_TRY(input.reader->read(0, magic));
      input.compressed = std::equal(magic, magic + sizeof magic, kMagic);
    }
    if (input.compressed) return input;
    input.reader.reset();
  }
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, open_model_source(path));
  input.source = std::move(source);
  warn_of_notes(path, input.source->notes(), context);
  NWC_ASSIGN_OR_RETURN(input.reader, make_raw_image(input.source, context.threads));
  return input;
}

void add_device_options(Command command, DeviceOptions& options) {
  command
      .add_option(
          "--backend", options.backend,
          "What decodes, and runs the model where the command does: cpu, vulkan (any device), or auto (a GPU if there "
          "is one, which loads the Vulkan driver to look for it, else the cpu)")
      .one_of({"auto", "cpu", "vulkan"})
      .show_default();
  command.add_option("--device", options.device,
                     "Part of the Vulkan device's name; nwc verify --backend vulkan names it (default: the best one)");
  command.add_option("--shader-cache", options.shader_cache,
                     "Folder for compiled Vulkan kernels, or none (default: nwc in the user's cache)");
}

Status check_device_options(const DeviceOptions& options) {
  if (options.backend != "cpu" || options.device.empty()) return {};
  return invalid_argument("--device " + options.device +
                          " names a Vulkan device, but the backend is cpu; add --backend vulkan");
}

Result<DecoderHandle> make_decoder(const NwcFile& file, const DeviceOptions& options, const Context& context,
                                   const Logger* log) {
  const Logger logger = log != nullptr ? *log : context.logger();
  NWC_TRY(check_device_options(options));
  DecoderHandle handle;
  handle.runner = make_thread_pool(context.threads);
  VulkanOptions vulkan;
  vulkan.device_name = options.device;
  vulkan.validation = options.validation;
  vulkan.max_window_bytes = options.window_bytes;
  if (options.backend != "cpu") vulkan.cache_directory = shader_cache(options.shader_cache);
  const Backend backend = options.backend == "vulkan" ? Backend::kVulkan
                          : options.backend == "auto" ? Backend::kAuto
                                                      : Backend::kCpu;
  NWC_ASSIGN_OR_RETURN(handle.decoder, create_decoder(backend, file, *handle.runner, vulkan, logger));
  return handle;
}

SessionParams exact_params() {
  SessionParams params;
  params.weight_dtype = params.kv_dtype = Dtype::kF32;
  return params;
}

Result<EvalModel> open_eval_model(const std::string& path, const SessionParams& params, const DeviceOptions& device,
                                  const Context& context, double share) {
  EvalModel model;
  NWC_ASSIGN_OR_RETURN(model.input, open_model_input(path, context));
  Result<std::unique_ptr<NwcFile>> file = NwcFile::open(std::move(model.input.reader));
  if (!file.ok()) return file.status().with_context(path);
  model.file = std::move(file).value();
  NWC_TRY(model.file->model_status().with_context(path + ": cannot be run or evaluated"));
  if (!model.file->model()->ends.encoder.of_images()) {
    NWC_TRY(model.file->tokenizer_status().with_context(path + ": cannot be run or evaluated"));
    NWC_ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::create_from(*model.file->tokenizer()));
  }
  DeviceOptions within = device;
  within.window_bytes = params.device_window_bytes;
  NWC_ASSIGN_OR_RETURN(model.decoder, make_decoder(*model.file, within, context));
  model.runner = make_thread_pool(context.threads);
  SessionParams placed = params;
  placed.compute = model.decoder.decoder->on_device() != nullptr ? Compute::kVulkan : Compute::kCpu;
  placed.cpu_fallback = device.backend == "auto";
  ProgressLine progress(context, "loading " + fs_path(path).filename().string(), share);
  NWC_ASSIGN_OR_RETURN(model.session, Session::create(*model.file, *model.decoder.decoder, *model.runner, placed,
                                                      context.logger(), progress.callback()));
  return model;
}

}  // namespace nwc::cli
