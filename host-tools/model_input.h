// Opens the model of a command: a .nwc file, a Hugging Face folder, a .gguf file or a .safetensors file. An
// uncompressed model is presented as a .nwc image whose tensors are raw (trainer/encode/raw_image.h).
#pragma once

#include <memory>
#include <string>

#include "host-tools/cli.h"
#include "runtime/base/reader.h"
#include "runtime/base/thread_pool.h"
#include "runtime/decoder/decoder.h"
#include "runtime/engine/session.h"
#include "runtime/model/tokenizer.h"
#include "trainer/data/model_source.h"

namespace nwc::cli {

struct ModelInput {
  std::string path;
  bool compressed = false;                    ///< a .nwc file
  std::shared_ptr<const ModelSource> source;  ///< the uncompressed model, else null
  std::unique_ptr<Reader> reader;             ///< of the .nwc file or image
};
/// Opens a model. The notes of an uncompressed model are printed as warnings.
Result<ModelInput> open_model_input(const std::string& path, const Context& context);

/// Prints what a source has left out, guessed or repaired, as warnings; each once in the life of the process.
void warn_of_notes(const std::string& path, const SourceNotes& notes, const Context& context);

/// A decoder with the runner that it works on. vulkan without a usable device: kNoDevice.
struct DecoderHandle {
  std::unique_ptr<Runner> runner;
  std::unique_ptr<Decoder> decoder;
};
struct DeviceOptions {
  std::string backend = "cpu";
  std::string device;       ///< substring of the Vulkan device's name
  bool validation = false;  ///< Vulkan's validation layer; its messages are logged as errors
  uint64_t window_bytes = kMaxWindowBytes;
  std::string shader_cache;  ///< where compiled kernels are kept; empty: the user's cache, "none": nowhere
};
void add_device_options(Command command, DeviceOptions& options);
/// errors: kInvalidArgument (a device for a backend that has none)
Status check_device_options(const DeviceOptions& options);
/// log: instead of the context's.
Result<DecoderHandle> make_decoder(const NwcFile& file, const DeviceOptions& options, const Context& context,
                                   const Logger* log = nullptr);

/// Decoded weights and the cache in f32: what nothing but the codec's own error is in.
SessionParams exact_params();

/// A model that can be evaluated.
struct EvalModel {
  ModelInput input;
  std::unique_ptr<NwcFile> file;
  DecoderHandle decoder;
  std::unique_ptr<Runner> runner;
  std::unique_ptr<Tokenizer> tokenizer;  ///< null: an encoder of images
  std::unique_ptr<Session> session;
};
/// share: of what is left of the command, for its progress. Errors: kUnsupported where the model has no description or
/// tokenizer.
Result<EvalModel> open_eval_model(const std::string& path, const SessionParams& params, const DeviceOptions& device,
                                  const Context& context, double share = 0.2);

}  // namespace nwc::cli
