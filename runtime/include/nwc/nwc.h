/* nwc: reads language-model weights stored by a learned neural codec, and decodes or runs them on CPU or Vulkan.
 *
 * The whole public interface; C11 and C++.
 *
 *   Model    An open .nwc file: tensors, metadata, tokenizer. Decodes nothing by itself.
 *   Decoder  Turns stored tensors into f32, f16 or bf16 in host memory, on the CPU or a Vulkan device.
 *   Session  Evaluates the model: tokens in, logits or text out, within a memory budget.
 *
 * Two libraries, link one of them: libnwc has everything; libnwc_decode has models and decoders, and neither tokenizer
 * nor sessions (nwc_tokenize, nwc_detokenize, nwc_session_*).
 *
 * Errors. Every call that can fail returns nwc_status and delivers its results through trailing `out_` pointers. After
 * a failure handles are as usable as before, results are not written and the contents of caller buffers are
 * unspecified. What went wrong, where and what to do: nwc_*_last_error() of the handle, or the nwc_error_detail of a
 * call that makes a handle. Nothing here throws, exits, prints or runs before main(). One exception: a library built
 * with NWC_EXCEPTIONS=OFF ends the process (std::terminate) where the system gives it no memory or thread, except for
 * the buffers of sessions and of devices, which are OUT_OF_MEMORY there, too.
 *
 * Trust. Safe for untrusted files: whatever the bytes are, a call stays inside its buffers, allocates within the limits
 * of doc/format.md (section 10) and ends; it reports an error or, where damage cannot be seen (checksums are not
 * signatures), delivers wrong numbers. Pointers, sizes and handles are trusted: they come from the program.
 *
 * Structs. Every struct starts with struct_size, except nwc_error_detail and nwc_runner, which never change. Call its
 * nwc_..._init() or zero it and set struct_size to its sizeof: both mean "all defaults". Later versions add fields at
 * the end. Callers compiled with an older header keep working: what they do not know keeps its default, and is not
 * written. Callers compiled with a newer one work with this library as long as the fields that it does not know are 0.
 *
 * Threads. Said at each handle. Different handles may always be used from different threads.
 *
 * Pointers to strings are UTF-8, ended by NUL unless a length comes with them, and belong to the library.
 * Units: sizes and offsets in bytes, counts in elements. Matrices are row-major, shapes outermost dimension first.
 */
#ifndef NWC_NWC_H_
#define NWC_NWC_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NWC_API __attribute__((visibility("default")))
#else
#define NWC_API
#endif

/* ---------------------------------------------------------------------------------------------------------------- */
/* Version and status                                                                                               */

#define NWC_VERSION_MAJOR 0
#define NWC_VERSION_MINOR 2
#define NWC_VERSION_PATCH 0

/* Of the library that is linked, "0.2.0"; and as major * 1000000 + minor * 1000 + patch. */
NWC_API const char* nwc_version_string(void);
NWC_API uint32_t nwc_version_number(void);
/* The newest container version that this library reads, as major * 1000 + minor. Files of the same major version and a
 * newer minor version are read too, unless they use a feature that is announced as new. */
NWC_API uint32_t nwc_format_version(void);

/* Stable numbers in families: 10s unrecognised or unsupported, 20s corrupt input, 40s argument, 60s memory or limit,
 * 70s device, 80s I/O. */
typedef enum nwc_status {
  NWC_STATUS_OK = 0,
  NWC_STATUS_UNRECOGNIZED = 10,        /* not an .nwc model file */
  NWC_STATUS_UNSUPPORTED = 11,         /* well formed, but needs a feature that this build lacks */
  NWC_STATUS_UNSUPPORTED_VERSION = 12, /* written by an incompatible version */
  NWC_STATUS_CORRUPT = 20,             /* a field has an impossible value */
  NWC_STATUS_TRUNCATED = 21,           /* the input ends too early */
  NWC_STATUS_CHECKSUM = 22,            /* a CRC-32 or a final coder state is wrong */
  NWC_STATUS_INVALID_ARGUMENT = 40,
  NWC_STATUS_NOT_FOUND = 41,
  NWC_STATUS_BUFFER_TOO_SMALL = 42,
  NWC_STATUS_CANCELLED = 43, /* a callback asked to stop */
  NWC_STATUS_OUT_OF_MEMORY = 60,
  NWC_STATUS_LIMIT = 61,  /* a stated limit of the format or of the implementation is exceeded */
  NWC_STATUS_BUDGET = 62, /* does not fit the memory budget */
  NWC_STATUS_DEVICE = 70,
  NWC_STATUS_NO_DEVICE = 71,
  NWC_STATUS_DEVICE_LOST = 72,
  NWC_STATUS_IO = 80,
  NWC_STATUS_INTERNAL = 100 /* a defect of the library: please report it */
} nwc_status;

/* The name of a status, "checksum mismatch". Static, never NULL, for any number. */
NWC_API const char* nwc_status_string(nwc_status status);

/* Where a call that makes a handle writes its error text; may be NULL wherever it is asked for. The text is cut to
 * size_bytes including the final NUL; 512 bytes hold every message of the library but those with long file paths.
 * On success the text is empty. Has no struct_size, because these two fields are all that it will ever have. */
typedef struct nwc_error_detail {
  char* text;
  size_t size_bytes;
} nwc_error_detail;

/* ---------------------------------------------------------------------------------------------------------------- */
/* Callbacks                                                                                                        */

typedef uint32_t nwc_log_level;
enum { NWC_LOG_DEBUG = 0, NWC_LOG_INFO = 1, NWC_LOG_WARNING = 2, NWC_LOG_ERROR = 3 };

/* One line without line end. Called while a call on the handle lasts, from any thread that works for it: the caller's,
 * one of the library's, one of an nwc_runner. */
typedef void (*nwc_log_callback)(void* user, nwc_log_level level, const char* message);

/* `done` of `total` units of work (tiles, layers, tensors: see the call). A return value other than 0 cancels: the call
 * ends with NWC_STATUS_CANCELLED. May be called from the worker threads, but by one thread at a time. */
typedef int (*nwc_progress_callback)(void* user, uint64_t done, uint64_t total);

/* Replaces the library's own threads. run() calls task(task_data, index, worker) once for every index in [0, count), in
 * any order and from any threads, and returns when all calls have returned. `worker` is below num_workers, and no two
 * calls with the same worker may overlap. run() is called by one thread at a time per handle, and only while a call on
 * the handle lasts. Has no struct_size, because these three fields are all that it will ever have. */
typedef void (*nwc_task)(void* task_data, uint32_t index, uint32_t worker);
typedef struct nwc_runner {
  void* user;
  uint32_t num_workers; /* at least 1 */
  void (*run)(void* user, uint32_t count, nwc_task task, void* task_data);
} nwc_runner;

/* ---------------------------------------------------------------------------------------------------------------- */
/* Model: an open file                                                                                              */

/* Threads: immutable; every call may be made from several threads at once. Decoders and sessions keep what they need
 * alive, so handles may be destroyed in any order. */
typedef struct nwc_model nwc_model;

/* Opens a file. It stays open and is read, never mapped, while the model, or anything made from it, exists. It should
 * not be changed meanwhile. If it is, calls stay safe: where it has become shorter they fail with TRUNCATED, and
 * changed bytes are CHECKSUM errors or, where checksums are skipped or have been computed before, decoded to wrong
 * numbers. A file that is replaced by renaming is not noticed. Reads the metadata only; tensors are read when decoded.
 * errors: IO, UNRECOGNIZED, UNSUPPORTED (also for codec and checkpoint files), UNSUPPORTED_VERSION, CORRUPT, TRUNCATED,
 * CHECKSUM, LIMIT, OUT_OF_MEMORY. */
NWC_API nwc_status nwc_model_open_path(const char* path, const nwc_error_detail* error, nwc_model** out_model);

/* Opens `size_bytes` at `data`, which are not copied and must live unchanged as long as the model and what is made
 * from it. Any alignment. A file that the program has mapped itself may be given: then the program sees to it that
 * nobody cuts the file short, which would end the process (SIGBUS). errors: as above. */
NWC_API nwc_status nwc_model_open_memory(const void* data, size_t size_bytes, const nwc_error_detail* error,
                                         nwc_model** out_model);

/* Copies `size_bytes` from `offset` of the file to `out`. 0: done; anything else: failed (reported as IO). The range is
 * inside [0, size_bytes of nwc_read_callbacks). Called from several threads at once, while a call on the model or a
 * handle made from it lasts. */
typedef struct nwc_read_callbacks {
  uint32_t struct_size;
  uint32_t reserved;   /* 0 */
  uint64_t size_bytes; /* of the whole file */
  void* user;
  int (*read)(void* user, uint64_t offset, void* out, size_t size_bytes);
  void (*close)(void* user); /* may be NULL; called once, when the last handle that needs the file is gone. Not called
                                when opening fails */
} nwc_read_callbacks;
static inline void nwc_read_callbacks_init(nwc_read_callbacks* callbacks) {
  memset(callbacks, 0, sizeof *callbacks);
  callbacks->struct_size = (uint32_t)sizeof *callbacks;
}
NWC_API nwc_status nwc_model_open_callbacks(const nwc_read_callbacks* callbacks, const nwc_error_detail* error,
                                            nwc_model** out_model);

/* NULL is allowed. */
NWC_API void nwc_model_destroy(nwc_model* model);

/* What the calling thread's last failed call on this handle ran into; "" if none failed. Valid until the thread's next
 * failing call on the handle, its own end, or the handle's destruction. Never NULL. */
NWC_API const char* nwc_model_last_error(const nwc_model* model);

typedef struct nwc_model_info {
  uint32_t struct_size;
  uint32_t num_tensors;
  uint32_t num_layers_stored; /* groups of tensors, in execution order: see nwc_model_layer */
  uint32_t has_codec;         /* 1: at least one tensor may be coded; 0: all tensors are stored raw */
  uint32_t has_architecture;  /* 1: the file describes the network, see nwc_model_get_u64; 0: bare tensors, or a
                               * description that this version does not know */
  uint32_t has_tokenizer;     /* 1: nwc_tokenize works */
  uint32_t vocab_size;        /* floats in a row of logits; 0 without an architecture */
  uint32_t max_token_bytes;   /* of the longest token's text; 0 without a tokenizer */
  uint64_t file_bytes;
  uint64_t num_weights;       /* elements of all tensors */
  uint64_t num_coded_weights; /* of those that are neural-coded */
  uint64_t stored_bytes;      /* all tensors, without metadata */
  double bpw_file;  /* 8 * file_bytes / num_weights: everything, tokenizer included; 0 if there are no weights */
  double bpw_coded; /* stored bits of the coded tensors, side information included, by their weights; 0 if none */
  uint64_t codec_id;
  uint32_t codec_levels;
  uint32_t codec_tables;
  uint32_t codec_width; /* of the synthesis network; 0: linear */
  uint32_t codec_blocks;
  double codec_mac_per_weight; /* multiply-accumulates that synthesis costs per weight */
} nwc_model_info;
static inline void nwc_model_info_init(nwc_model_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = (uint32_t)sizeof *info;
}
NWC_API nwc_status nwc_model_get_info(const nwc_model* model, nwc_model_info* out_info);

/* What the file says of its network and tokenizer, by key. Keys that do not apply to a model are absent, and later
 * versions add more: ask for what the program needs, and take NOT_FOUND for "no".
 *
 *   key                  type    meaning
 *   architecture         string  "llama": RMS norm, rotary positions, grouped queries, SwiGLU
 *   vocab_size           u64     tokens that the embedding knows
 *   hidden_size          u64
 *   intermediate_size    u64     width of the MLP
 *   num_layers           u64     transformer blocks
 *   num_heads            u64
 *   num_kv_heads         u64
 *   head_dim             u64
 *   max_positions        u64     the context that the model was trained for
 *   tied_embeddings      u64     1: the output head is the embedding
 *   rms_norm_eps         f64
 *   rope_theta           f64
 *   rope_scaling         string  "none", "linear" or "llama3"
 *   rope_factor          f64     unless rope_scaling is "none"
 *   num_eos_ids          u64     generation stops at any of these tokens:
 *   eos_id.0, .1, ...    u64
 *   tokenizer            string  "byte-level BPE" or "SentencePiece BPE"
 *   tokenizer.vocab_size u64     tokens of the tokenizer, at most vocab_size
 *   bos_id               u64     absent: the tokenizer has none
 *
 * errors: NOT_FOUND, INVALID_ARGUMENT (the value is of another type; get_f64 takes u64, too). */
NWC_API nwc_status nwc_model_get_u64(const nwc_model* model, const char* key, uint64_t* out_value);
NWC_API nwc_status nwc_model_get_f64(const nwc_model* model, const char* key, double* out_value);
/* The string lives as long as the model. */
NWC_API nwc_status nwc_model_get_string(const nwc_model* model, const char* key, const char** out_value);
typedef uint32_t nwc_value_type;
enum { NWC_VALUE_U64 = 0, NWC_VALUE_F64 = 1, NWC_VALUE_STRING = 2 };
/* The keys that this model has, in the order above: index 0, 1, ... until NOT_FOUND. Keys live as long as the model. */
NWC_API nwc_status nwc_model_key_at(const nwc_model* model, uint32_t index, const char** out_key,
                                    nwc_value_type* out_type);

/* Metadata: decimal numbers and names as text. Keys: doc/format.md, section 9. */
typedef uint32_t nwc_metadata;
enum {
  NWC_METADATA_PROVENANCE = 0, /* who made the file, from what, with which settings */
  NWC_METADATA_QUALITY = 1     /* the quality card: bpw, perplexity, KL divergence, and the text measured on */
};
NWC_API nwc_status nwc_model_metadata_count(const nwc_model* model, nwc_metadata section, uint32_t* out_count);
/* Entries are in order of keys. Strings live as long as the model; values may hold any UTF-8. errors: NOT_FOUND. */
NWC_API nwc_status nwc_model_metadata_at(const nwc_model* model, nwc_metadata section, uint32_t index,
                                         const char** out_key, const char** out_value);
NWC_API nwc_status nwc_model_metadata_find(const nwc_model* model, nwc_metadata section, const char* key,
                                           const char** out_value);

/* Element types, numbered as in the container. Decoders deliver F32, F16 and BF16. */
typedef uint32_t nwc_dtype;
enum {
  NWC_DTYPE_F32 = 0,
  NWC_DTYPE_F16 = 1,
  NWC_DTYPE_BF16 = 2,
  NWC_DTYPE_F64 = 3,
  NWC_DTYPE_I8 = 4,
  NWC_DTYPE_U8 = 5,
  NWC_DTYPE_I16 = 6,
  NWC_DTYPE_U16 = 7,
  NWC_DTYPE_I32 = 8,
  NWC_DTYPE_U32 = 9,
  NWC_DTYPE_I64 = 10,
  NWC_DTYPE_U64 = 11,
  NWC_DTYPE_BOOL = 12,
  /* Of 8 bits, with the bits of exponent and mantissa in their names: decoders take them, too. */
  NWC_DTYPE_F8_E4M3 = 13,
  NWC_DTYPE_F8_E5M2 = 14,
  NWC_DTYPE_F8_E8M0 = 15,
  NWC_DTYPE_F8_E4M3FNUZ = 16,
  NWC_DTYPE_F8_E5M2FNUZ = 17,
  /* Packed without gaps, two in a byte and four in three: raw only. */
  NWC_DTYPE_F4 = 18,
  NWC_DTYPE_F6_E2M3 = 19,
  NWC_DTYPE_F6_E3M2 = 20,
  NWC_DTYPE_C64 = 21 /* two F32, real and imaginary: raw only */
};
/* "F32", "BF16", ...; "?" for a number that is not listed. */
NWC_API const char* nwc_dtype_string(nwc_dtype dtype);
/* Bytes per element; 0 for a type of less than a byte, and for a number that is not listed. */
NWC_API size_t nwc_dtype_size(nwc_dtype dtype);
/* Bits per element; 0 for a number that is not listed. */
NWC_API uint32_t nwc_dtype_bits(nwc_dtype dtype);

typedef uint32_t nwc_storage;
enum { NWC_STORAGE_RAW = 0, NWC_STORAGE_RAW_DEFLATED = 1, NWC_STORAGE_CODED = 2 };

/* Of nwc_tensor_info::shape; a tensor may have more dimensions. */
#define NWC_MAX_RANK 8

typedef struct nwc_tensor_info {
  uint32_t struct_size;
  nwc_storage storage;
  nwc_dtype dtype; /* of the original */
  uint32_t layer;  /* index for nwc_model_layer */
  uint32_t rank;
  uint32_t has_row_scales;
  uint32_t tile_rows, tile_cols; /* coded tensors: what is decoded at a time; else 0 */
  const char* name;              /* lives as long as the model */
  uint64_t shape[NWC_MAX_RANK];  /* the first dimensions, at most NWC_MAX_RANK; an empty shape is a scalar */
  uint64_t rows, cols;           /* as a matrix: the product of the first row_dimensions, and of the others */
  uint64_t file_offset;          /* of the stored bytes */
  uint64_t stored_bytes;
  double bpw;                 /* 8 * stored_bytes / (rows * cols); 0 for an empty tensor */
  const uint64_t* dimensions; /* the whole shape, `rank` entries; lives as long as the model */
  uint32_t row_dimensions;    /* 1 but for some coded tensors, such as experts [e][out][in]: there 2 */
  uint32_t reserved;          /* 0 */
} nwc_tensor_info;
static inline void nwc_tensor_info_init(nwc_tensor_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = (uint32_t)sizeof *info;
}
/* Tensors are numbered in execution order. errors: NOT_FOUND. */
NWC_API nwc_status nwc_model_tensor(const nwc_model* model, uint32_t tensor, nwc_tensor_info* out_info);
NWC_API nwc_status nwc_model_find_tensor(const nwc_model* model, const char* name, uint32_t* out_tensor);

/* The original bytes of a tensor that is not coded, of any dtype. out_data: size_bytes >= rows * cols *
 * nwc_dtype_bits(dtype) / 8. errors: INVALID_ARGUMENT (coded), BUFFER_TOO_SMALL, NOT_FOUND, CHECKSUM, CORRUPT, IO. */
NWC_API nwc_status nwc_model_read_raw(const nwc_model* model, uint32_t tensor, void* out_data, size_t size_bytes);

/* A stored layer: consecutive tensors that inference needs together, one contiguous range of the file. */
typedef struct nwc_layer_info {
  uint32_t struct_size;
  uint32_t group; /* as numbered in the file */
  uint32_t first_tensor, num_tensors;
  uint64_t file_offset, stored_bytes; /* the range, gaps for alignment included */
  uint64_t num_weights;
  /* What nwc_decoder_decode_layer writes: each tensor begins at a multiple of NWC_LAYER_ALIGNMENT. */
  uint64_t decoded_bytes_f32, decoded_bytes_f16; /* bf16 as f16 */
} nwc_layer_info;
#define NWC_LAYER_ALIGNMENT 64
static inline void nwc_layer_info_init(nwc_layer_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = (uint32_t)sizeof *info;
}
NWC_API nwc_status nwc_model_layer(const nwc_model* model, uint32_t layer, nwc_layer_info* out_info);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Tokenizer of a model                                                                                             */

enum {
  NWC_TOKENIZE_ADD_SPECIAL = 1,  /* put BOS in front where the tokenizer says so */
  NWC_TOKENIZE_PARSE_SPECIAL = 2 /* control tokens written out in the text become their ids; not for untrusted text */
};
/* At most this many tokens for a text of length_bytes. */
static inline size_t nwc_tokenize_bound(size_t length_bytes) { return 3 * length_bytes + 8; }
/* UTF-8 to tokens; other bytes are taken as they are. text need not end with NUL and may be NULL if length_bytes is 0.
 * *out_count: number of tokens, also set with BUFFER_TOO_SMALL. With out_tokens NULL and capacity 0 it only counts.
 * errors: UNSUPPORTED (no tokenizer), INVALID_ARGUMENT, LIMIT (over 1 GiB), CORRUPT, BUFFER_TOO_SMALL. */
NWC_API nwc_status nwc_tokenize(const nwc_model* model, const char* text, size_t length_bytes, uint32_t flags,
                                uint32_t* out_tokens, size_t capacity, size_t* out_count);
/* Tokens to bytes, at most num_tokens * nwc_model_info::max_token_bytes. Control tokens give nothing; a token may be
 * part of a character. Not ended by NUL. *out_length_bytes is also set with BUFFER_TOO_SMALL. With out_text NULL and
 * capacity 0 it only counts. errors: UNSUPPORTED, INVALID_ARGUMENT (id out of range), BUFFER_TOO_SMALL. */
NWC_API nwc_status nwc_detokenize(const nwc_model* model, const uint32_t* tokens, size_t num_tokens, char* out_text,
                                  size_t capacity_bytes, size_t* out_length_bytes);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Devices                                                                                                          */

typedef uint32_t nwc_backend;
enum {
  NWC_BACKEND_AUTO = 0, /* Vulkan where a device other than a software renderer is there and passes its self-test; else
                           the CPU. The choice and its reason go to the log. A device that fails later is given up with
                           a warning: the CPU does again what failed, and all that follows */
  NWC_BACKEND_CPU = 1,
  NWC_BACKEND_VULKAN = 2 /* NO_DEVICE if there is none; DEVICE or DEVICE_LOST if it fails */
};

typedef uint32_t nwc_device_type;
enum {
  NWC_DEVICE_OTHER = 0,
  NWC_DEVICE_INTEGRATED_GPU = 1,
  NWC_DEVICE_DISCRETE_GPU = 2,
  NWC_DEVICE_VIRTUAL_GPU = 3,
  NWC_DEVICE_CPU = 4 /* a software renderer */
};
typedef struct nwc_device_info {
  uint32_t struct_size;
  nwc_device_type type;
  uint32_t usable;      /* 1: has what the decoder requires */
  int32_t device_index; /* what device_index of nwc_decoder_params and nwc_session_params takes to choose it */
  char name[256];
  char detail[256];      /* driver and versions, or why the device is not usable */
  uint64_t memory_bytes; /* of the largest device-local heap */
} nwc_device_info;
static inline void nwc_device_info_init(nwc_device_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = (uint32_t)sizeof *info;
}
/* Vulkan devices, the best one first. Loads Vulkan for the time of the call;
 * without a Vulkan driver the count is 0. Threads: one call at a time. errors: NOT_FOUND (index). */
NWC_API nwc_status nwc_vulkan_device_count(uint32_t* out_count);
NWC_API nwc_status nwc_vulkan_device(uint32_t index, nwc_device_info* out_info);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Decoder                                                                                                          */

/* Threads: one call at a time, except nwc_decoder_name and nwc_decoder_last_error. */
typedef struct nwc_decoder nwc_decoder;

typedef struct nwc_decoder_params {
  uint32_t struct_size;
  nwc_backend backend;
  int32_t device_index;     /* Vulkan: 0 the best one by type and memory, or nwc_device_info::device_index */
  uint32_t num_threads;     /* 0: one per hardware thread, at most 256. Not used with a runner */
  const char* device_name;  /* Vulkan: part of the device's name; NULL: any */
  const nwc_runner* runner; /* NULL: the library's own threads. Copied, what it points to must outlive the decoder */
  nwc_log_callback log;     /* NULL: no log */
  void* log_user;
  uint32_t skip_checksums; /* 1: do not compute CRC-32 (the coder's own end states are still checked) */
  uint32_t validation;     /* 1: Vulkan's validation layer; what it says goes to the log */
  /* Vulkan: where compiled kernels are kept from run to run, a file per device; made if only its last part is missing.
   * Nobody else should be able to write there. NULL: nowhere. What goes wrong is logged and costs only time. */
  const char* cache_directory;
} nwc_decoder_params;
static inline void nwc_decoder_params_init(nwc_decoder_params* params) {
  memset(params, 0, sizeof *params);
  params->struct_size = (uint32_t)sizeof *params;
}

/* params may be NULL: all defaults. A Vulkan decoder proves every kernel that it is going to use on a tile with a known
 * answer; one that answers wrongly, then or later, is not used, with a log line.
 * errors: INVALID_ARGUMENT, NO_DEVICE, DEVICE, OUT_OF_MEMORY, and the file's. */
NWC_API nwc_status nwc_decoder_create(const nwc_model* model, const nwc_decoder_params* params,
                                      const nwc_error_detail* error, nwc_decoder** out_decoder);
NWC_API void nwc_decoder_destroy(nwc_decoder* decoder); /* NULL is allowed */
/* As nwc_model_last_error. */
NWC_API const char* nwc_decoder_last_error(const nwc_decoder* decoder);
/* "cpu avx2", "vulkan <device>": what is at work now. Lives as long as the decoder. */
NWC_API const char* nwc_decoder_name(const nwc_decoder* decoder);
/* NWC_BACKEND_CPU or NWC_BACKEND_VULKAN: what is at work now. */
NWC_API nwc_backend nwc_decoder_backend(const nwc_decoder* decoder);

/* A whole tensor to out_data [rows][cols] of dtype F32, F16 or BF16, aligned to its element size. Raw tensors are
 * converted between float types. size_bytes: at least rows * cols * nwc_dtype_size(dtype). The symbols are the same on
 * every backend; weights agree within the tolerance of doc/format.md, section 5.5. progress (may be NULL) counts tiles
 * of the tensor. errors: NOT_FOUND, INVALID_ARGUMENT (dtype), UNSUPPORTED (a raw tensor that is not of a float type),
 * BUFFER_TOO_SMALL, CHECKSUM, CORRUPT, TRUNCATED, CANCELLED, DEVICE, IO, OUT_OF_MEMORY. */
NWC_API nwc_status nwc_decoder_decode_tensor(nwc_decoder* decoder, uint32_t tensor, nwc_dtype dtype,
                                             nwc_progress_callback progress, void* progress_user, void* out_data,
                                             size_t size_bytes);
/* Rows [row_begin, row_end) to out_data [row_end - row_begin][cols]; reads only the tiles that hold them. An empty
 * range is allowed. errors: as above; INVALID_ARGUMENT also for a range beyond rows. */
NWC_API nwc_status nwc_decoder_decode_rows(nwc_decoder* decoder, uint32_t tensor, uint64_t row_begin, uint64_t row_end,
                                           nwc_dtype dtype, nwc_progress_callback progress, void* progress_user,
                                           void* out_data, size_t size_bytes);
/* All tensors of a stored layer into one buffer: tensor first_tensor + i begins at out_offsets[i], a multiple of
 * NWC_LAYER_ALIGNMENT; padding is not written. size_bytes: at least nwc_layer_info::decoded_bytes_f32 or _f16.
 * out_offsets: num_tensors entries, or NULL. progress counts tensors. errors: as above. */
NWC_API nwc_status nwc_decoder_decode_layer(nwc_decoder* decoder, uint32_t layer, nwc_dtype dtype,
                                            nwc_progress_callback progress, void* progress_user, void* out_data,
                                            size_t size_bytes, uint64_t* out_offsets);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Session                                                                                                          */

/* Threads: one call at a time, except nwc_session_name and nwc_session_last_error. */
typedef struct nwc_session nwc_session;

typedef uint32_t nwc_weight_mode;
enum {
  NWC_WEIGHTS_AUTO = 0, /* resident without a budget or where it fits; else, where the codec's synthesis is linear, fused;
                           else cached or streamed */
  NWC_WEIGHTS_RESIDENT = 1, /* everything is decoded once, when the session is made */
  NWC_WEIGHTS_STREAMED = 2, /* two layer buffers: the next layer is decoded while this one computes */
  NWC_WEIGHTS_CACHED = 3,   /* as many layers resident as the budget allows, the others streamed */
  /* single tokens (on a Vulkan device: up to 8) are multiplied by the coded weights, which a device keeps in its memory;
     for more, layer by layer is decoded into one buffer. Logits agree with those of the other modes within rounding.
     What a budget leaves holds decoded layers, as in CACHED. */
  NWC_WEIGHTS_FUSED = 4
};

/* How decoded weights and the KV cache are held. Arithmetic is f32 always. */
typedef uint32_t nwc_precision;
enum {
  NWC_PRECISION_DEFAULT = 0, /* F16; weights that F16 would make infinite, or mostly round to 0 or coarsely: BF16, with
                                a warning in the log */
  NWC_PRECISION_F32 = 1,
  NWC_PRECISION_F16 = 2, /* for such weights with a warning only */
  NWC_PRECISION_BF16 = 3
};

typedef struct nwc_session_params {
  uint32_t struct_size;
  nwc_backend backend;      /* what decodes and evaluates. AUTO goes on with the CPU if the device fails */
  int32_t device_index;     /* as in nwc_decoder_params */
  uint32_t num_threads;     /* as in nwc_decoder_params */
  const char* device_name;  /* as in nwc_decoder_params */
  const nwc_runner* runner; /* as in nwc_decoder_params. Decoding and computing then take turns, as they share it */
  nwc_log_callback log;
  void* log_user;
  nwc_weight_mode mode;
  uint32_t context; /* tokens that the KV cache holds; 0: the model's maximum, at most 8192 */
  uint32_t batch;   /* most tokens that pass through the layers together; 0: chosen by the plan */
  nwc_precision weight_precision;
  nwc_precision kv_precision;   /* not BF16 */
  uint32_t skip_checksums;      /* 1: do not compute CRC-32 when a part of the file is first touched */
  uint64_t memory_budget_bytes; /* hard limit for nwc_session_plan::total_bytes; 0: none */
  uint32_t count_file;          /* 1: the file's bytes occupy memory and count against the budget */
  uint32_t reserved;            /* 0 */
  const char* cache_directory;  /* as in nwc_decoder_params */
} nwc_session_params;
static inline void nwc_session_params_init(nwc_session_params* params) {
  memset(params, 0, sizeof *params);
  params->struct_size = (uint32_t)sizeof *params;
}

/* What a session will take, computed from the metadata before anything is allocated. Not counted: the model itself
 * (metadata and tokenizer). */
typedef struct nwc_session_plan {
  uint32_t struct_size;
  nwc_weight_mode mode; /* chosen, never AUTO */
  uint32_t context;
  uint32_t batch;
  uint32_t num_layers;          /* transformer blocks */
  uint32_t num_resident_layers; /* the first so many stay decoded, the others are streamed or multiplied as they are */
  uint32_t embedding_resident;  /* 0: rows are decoded when a token needs them */
  uint32_t head_resident;       /* 0: the output head is decoded in bands of rows for every batch */
  uint64_t weight_bytes;        /* decoded weights that stay */
  uint64_t stream_buffer_bytes; /* buffers for what does not stay */
  uint64_t kv_cache_bytes;
  uint64_t activation_bytes;
  uint64_t decoder_bytes;            /* upper estimate of what the decoder allocates while it works */
  uint64_t file_bytes;               /* the .nwc file; part of the total only with count_file */
  uint64_t total_bytes;              /* the sum: what the budget is compared with */
  uint64_t streamed_bytes_per_batch; /* stored bytes that are read and decoded again for every batch of tokens */
  uint64_t needed_resident_bytes;    /* total_bytes that RESIDENT would need with the same context */
  uint64_t needed_streamed_bytes;    /* total_bytes that STREAMED would need at least, with the same context */
  uint64_t needed_fused_bytes;       /* total_bytes that FUSED would need at least, with the same context */
  nwc_precision weight_precision;    /* chosen, never DEFAULT */
  uint32_t reserved;                 /* 0 */
} nwc_session_plan;
static inline void nwc_session_plan_init(nwc_session_plan* plan) {
  memset(plan, 0, sizeof *plan);
  plan->struct_size = (uint32_t)sizeof *plan;
}

/* params may be NULL: all defaults. errors: BUDGET (the text says what would fit), UNSUPPORTED (the file describes no
 * network), INVALID_ARGUMENT, CORRUPT (a tensor that the network needs is missing or has another shape). */
NWC_API nwc_status nwc_session_make_plan(const nwc_model* model, const nwc_session_params* params,
                                         const nwc_error_detail* error, nwc_session_plan* out_plan);

/* params may be NULL: all defaults. progress (may be NULL) counts layers decoded. errors: as nwc_session_make_plan and
 * nwc_decoder_create. */
NWC_API nwc_status nwc_session_create(const nwc_model* model, const nwc_session_params* params,
                                      nwc_progress_callback progress, void* progress_user,
                                      const nwc_error_detail* error, nwc_session** out_session);
NWC_API void nwc_session_destroy(nwc_session* session); /* NULL is allowed */
/* As nwc_model_last_error. */
NWC_API const char* nwc_session_last_error(const nwc_session* session);
/* The decoder's name. Lives as long as the session. */
NWC_API const char* nwc_session_name(const nwc_session* session);
NWC_API nwc_status nwc_session_get_plan(const nwc_session* session, nwc_session_plan* out_plan);

/* Tokens of the sequence: all that were evaluated, or drawn and reported. */
NWC_API uint32_t nwc_session_position(const nwc_session* session);
/* Forgets all tokens from `position` on. errors: INVALID_ARGUMENT (beyond the current position). */
NWC_API nwc_status nwc_session_truncate(nwc_session* session, uint32_t position);

typedef uint32_t nwc_logits;
enum {
  NWC_LOGITS_NONE = 0, /* only fill the KV cache; out_logits may be NULL */
  NWC_LOGITS_LAST = 1, /* out_logits [vocab_size], after the last token */
  NWC_LOGITS_ALL = 2   /* out_logits [num_tokens][vocab_size] */
};
/* Appends tokens at the current position. num_tokens: at least 1. capacity: floats at out_logits. After an error the
 * position is what it was. errors: INVALID_ARGUMENT (token id, mode), LIMIT (beyond the context), BUFFER_TOO_SMALL, and
 * those of decoding. */
NWC_API nwc_status nwc_session_eval(nwc_session* session, const uint32_t* tokens, size_t num_tokens, nwc_logits which,
                                    float* out_logits, size_t capacity);

typedef struct nwc_generate_params {
  uint32_t struct_size;
  uint32_t max_tokens; /* 0: until the context is full */
  float temperature;   /* 0: the most likely token always */
  uint32_t top_k;      /* 0: all */
  float top_p;         /* 0 or 1: all */
  uint32_t ignore_eos; /* 1: do not stop at an end-of-sequence token */
  uint64_t seed;       /* the same seed, model and settings give the same tokens on the same backend */
} nwc_generate_params;
static inline void nwc_generate_params_init(nwc_generate_params* params) {
  memset(params, 0, sizeof *params);
  params->struct_size = (uint32_t)sizeof *params;
}

typedef uint32_t nwc_stop_reason;
enum {
  NWC_STOP_MAX_TOKENS = 0,
  NWC_STOP_EOS = 1,          /* an end-of-sequence token was drawn, with or without room for it */
  NWC_STOP_CONTEXT_FULL = 2, /* a token was drawn that finds no room in the context; it is not reported */
  NWC_STOP_CALLBACK = 3
};
/* A token that was drawn, with its text (length_bytes bytes, which may be part of a character; empty without a
 * tokenizer). A return value other than 0 stops. */
typedef int (*nwc_token_callback)(void* user, uint32_t token, const char* text, size_t length_bytes);

/* Appends `prompt` (at least 1 token), then draws tokens one by one, appending and reporting each. The sequence ends
 * with the last token that was reported, so that a later call goes on from there. An end-of-sequence token is neither
 * appended nor reported. params may be NULL: all defaults. out_stop_reason may be NULL.
 * errors: as nwc_session_eval. A stop through the callback is not an error. */
NWC_API nwc_status nwc_session_generate(nwc_session* session, const uint32_t* prompt, size_t num_prompt,
                                        const nwc_generate_params* params, nwc_token_callback callback,
                                        void* callback_user, nwc_stop_reason* out_stop_reason);

/* What a session would take in time, for tokens that are generated one by one. */
typedef struct nwc_session_estimate {
  uint32_t struct_size;
  uint32_t reserved;                /* 0 */
  double mac_per_weight;            /* multiply-accumulates of the synthesis network */
  double decode_weights_per_second; /* measured on this file; 0: nothing is coded */
  double fused_weights_per_second;  /* products with coded weights */
  double memory_bytes_per_second;   /* decoded weights that a product with one token reads */
  uint64_t resident_weights;        /* coded weights that are decoded once */
  uint64_t weights_per_token;       /* coded weights that are decoded, or multiplied as they are, for every token */
  double load_seconds;
  double decode_seconds_per_token;
  double multiply_seconds_per_token;
  double seconds_per_token; /* of both; attention and the look-up of the embedding are left out */
} nwc_session_estimate;
static inline void nwc_session_estimate_init(nwc_session_estimate* estimate) {
  memset(estimate, 0, sizeof *estimate);
  estimate->struct_size = (uint32_t)sizeof *estimate;
}
/* Times the decoder that the session would have on a part of the file (about 0.1 s, and what making the decoder takes),
 * and predicts from that: good to a factor of two. params as in nwc_session_create. errors: as nwc_session_make_plan
 * and nwc_decoder_create, and those of decoding. */
NWC_API nwc_status nwc_session_make_estimate(const nwc_model* model, const nwc_session_params* params,
                                             const nwc_error_detail* error, nwc_session_estimate* out_estimate);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* NWC_NWC_H_ */
