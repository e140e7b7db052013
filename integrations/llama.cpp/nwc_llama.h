/* Loads .nwc files into llama.cpp. C and C++.
 *
 * The library does not link llama.cpp: it takes its functions from a library that the process has loaded, or loads one.
 * It was compiled with the headers of one version, and refuses a library whose structures have another layout. */
#ifndef NWC_LLAMA_H
#define NWC_LLAMA_H

#include <llama.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NWC_LLAMA_API __attribute__((visibility("default")))
#else
#define NWC_LLAMA_API
#endif

typedef struct nwc_llama_options {
  uint32_t struct_size; /* set by nwc_llama_options_init */
  /* What the matrices are decoded to: "f16" (NULL means this), "bf16", "f32", "q8_0", or any other type that
   * `nwc decompress --type` has for GGUF files. Vectors are F32. */
  const char* type;
  /* llama.cpp's library: the path of libllama.so, or of a Python extension module that has llama.cpp inside. NULL: what
   * the process has loaded for everyone to see; else $NWC_LLAMA_LIBRARY; else libllama.so. */
  const char* library;
  uint32_t threads; /* that decode; 0: one per core */
} nwc_llama_options;

/* Sets every field to its default. */
NWC_LLAMA_API void nwc_llama_options_init(nwc_llama_options* options);

/* Loads a .nwc file as llama_model_load_from_file loads the GGUF file that `nwc decompress --type` makes of it: the same
 * model to the bit, for every architecture that llama.cpp has. Weights are decoded on all threads, tensor by tensor;
 * beside the model there is one tensor in memory, and 64 MiB at most. params->progress_callback is called between
 * tensors, and may cancel.
 * options, params: NULL: defaults (llama_model_default_params). params->load_mode is not looked at: nothing can be mapped.
 * Returns NULL on errors. The model is freed with llama_model_free. Thread-safe. */
NWC_LLAMA_API struct llama_model* nwc_llama_load(const char* path, const nwc_llama_options* options,
                                                 const struct llama_model_params* params);

/* Why this thread's last nwc_llama_load returned NULL; "" after a success. Valid until its next call. */
NWC_LLAMA_API const char* nwc_llama_error(void);

/* Remarks of this thread's last successful nwc_llama_load, a line each: what was left out or has another type. */
NWC_LLAMA_API const char* nwc_llama_notes(void);

/* "nwc 0.2.0, built for llama.cpp with ggml 0.25.3". */
NWC_LLAMA_API const char* nwc_llama_version(void);

#ifdef __cplusplus
}
#endif

#endif
