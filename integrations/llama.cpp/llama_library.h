// llama.cpp's functions, found when they are needed.
#pragma once

#include <llama.h>

#include <string>

#include "runtime/base/status.h"

namespace nwc {

/// llama_model_params with room for fields that a later version adds at its end. A structure of this size is returned
/// and passed in memory, so that a function that knows a larger llama_model_params works on the room, too.
struct RoomyModelParams {
  llama_model_params params;
  unsigned char room[256];
};

struct LlamaLibrary {
  RoomyModelParams (*default_params)() = nullptr;
  llama_model* (*load_from_file_ptr)(FILE* file, RoomyModelParams params) = nullptr;
  void (*log_get)(ggml_log_callback* callback, void** user) = nullptr;  ///< may be absent
  void (*log_set)(ggml_log_callback callback, void* user) = nullptr;    ///< may be absent
  std::string version;                                                  ///< of ggml: "0.26.0"
};

/// path: may be nullptr; see nwc_llama_options::library. The library stays loaded.
/// errors: kUnsupported: no library, one without a function, or one whose structures have another layout, with both
/// versions
Result<LlamaLibrary> find_llama_library(const char* path);

/// What the headers were of.
const char* built_for_ggml();

}  // namespace nwc
