#include "integrations/llama.cpp/llama_library.h"

#include <dlfcn.h>

#include <cstdlib>

#ifndef NWC_LLAMA_GGML_VERSION
#define NWC_LLAMA_GGML_VERSION "of an unknown version"
#endif

namespace nwc {
namespace {

constexpr char kLoad[] = "llama_model_load_from_file_ptr", kDefaults[] = "llama_model_default_params";

template <typename Function>
void find(void* handle, const char* name, Function* out) {
  *out = reinterpret_cast<Function>(dlsym(handle, name));
}

/// Path, and how it was named, for messages.
Result<void*> open_library(const char* path) {
  if (path == nullptr && dlsym(RTLD_DEFAULT, kLoad) != nullptr) return static_cast<void*>(RTLD_DEFAULT);
  if (path == nullptr) path = std::getenv("NWC_LLAMA_LIBRARY");
  if (path == nullptr) path = "libllama.so";
  dlerror();
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle != nullptr) return handle;
  const char* reason = dlerror();
  return unsupported(std::string("llama.cpp's library cannot be loaded: ") + (reason == nullptr ? path : reason) +
                     "; give its path (nwc_llama_options.library, or the environment variable NWC_LLAMA_LIBRARY)");
}

/// The defaults in the places where the headers have them. A field more or less before the end moves the others.
bool looks_right(const llama_model_params& p) {
  const bool pointers = p.devices == nullptr && p.tensor_buft_overrides == nullptr && p.tensor_split == nullptr &&
                        p.progress_callback == nullptr && p.progress_callback_user_data == nullptr &&
                        p.kv_overrides == nullptr;
  const bool numbers = p.n_gpu_layers == -1 && p.split_mode == LLAMA_SPLIT_MODE_LAYER && p.main_gpu == 0;
  const auto* flags = reinterpret_cast<const unsigned char*>(&p.vocab_only);
  return pointers && numbers && flags[0] == 0 && flags[1] == 0 && flags[2] == 1;  // vocab_only, check, extra buffers
}

}  // namespace

const char* built_for_ggml() { return NWC_LLAMA_GGML_VERSION; }

Result<LlamaLibrary> find_llama_library(const char* path) {
  NWC_ASSIGN_OR_RETURN(void* const handle, open_library(path));
  LlamaLibrary library;
  const char* (*version)() = nullptr;
  find(handle, "ggml_version", &version);
  library.version = version == nullptr ? "of an unknown version" : version();
  find(handle, kDefaults, &library.default_params);
  find(handle, kLoad, &library.load_from_file_ptr);
  find(handle, "llama_log_get", &library.log_get);
  find(handle, "llama_log_set", &library.log_set);
  const std::string versions =
      "found ggml " + library.version + ", and nwc_llama was built for ggml " + built_for_ggml();
  for (const auto& [name, found] : {std::pair{kDefaults, library.default_params != nullptr},
                                    std::pair{kLoad, library.load_from_file_ptr != nullptr}}) {
    if (!found) return unsupported("llama.cpp's library has no function " + std::string(name) + " (" + versions + ")");
  }
  const RoomyModelParams defaults = library.default_params();
  if (looks_right(defaults.params)) return library;
  return unsupported("llama.cpp's library has another llama_model_params than the headers (" + versions +
                     "); build nwc_llama with the headers of this llama.cpp");
}

}  // namespace nwc
