/* nwc reads language-model weights that a learned neural codec has compressed. It decodes them, and runs the model,
 * on the CPU or on a Vulkan device. This header is the whole public interface, for C11 and C++.
 *
 *   Model    An open .nwc file: tensors, metadata and tokenizer. A model decodes nothing by itself.
 *   Decoder  Turns stored tensors into f32, f16 or bf16 in host memory.
 *   Session  Evaluates the model within a memory budget. It takes tokens and gives logits or text.
 *
 * Link one of two libraries. libnwc has everything. libnwc_decode has models and decoders, but neither the tokenizer
 * (nwc_tokenize, nwc_detokenize) nor nwc_chat_format nor sessions (nwc_session_*).
 *
 * Errors. Every call that can fail returns an nwc_status and delivers its results through trailing `out_` pointers.
 * After a failure the handles are as usable as before, the results are not written, and the contents of the caller's
 * buffers are unspecified. The error text says what went wrong, where, and what to do. nwc_*_last_error() returns the
 * text for a handle; calls that create a handle write it to an nwc_error_detail. The comment "errors:" at a call lists
 * the statuses that it returns, without their prefix NWC_STATUS_.
 * The library never throws, exits or prints, and runs nothing before main(). There is one exception: a library that
 * was built with NWC_EXCEPTIONS=OFF ends the process (std::terminate) when the system gives it no memory or no thread.
 * Even there, failing to allocate the buffers of sessions and of devices is reported as OUT_OF_MEMORY.
 *
 * Trust. Files may be hostile. Whatever their bytes are, a call stays inside its buffers, allocates within the limits
 * of doc/format.md (section 10), and ends. It either reports an error or, where damage cannot be detected, delivers
 * wrong numbers: checksums are not signatures. Pointers, sizes and handles come from the program and are trusted.
 *
 * Structs. Every struct starts with struct_size, except nwc_error_detail, nwc_runner and nwc_chat_message, which never
 * change. Call the
 * struct's nwc_..._init(), or zero the struct and set struct_size to its sizeof. Both mean "all defaults". Later
 * versions add fields at the end. A caller that was compiled with an older header keeps working: the fields that it
 * does not know keep their defaults and are not written. A caller that was compiled with a newer header works with
 * this library as long as it leaves the fields that this library does not know at 0.
 *
 * Threads. The comment at each handle says which calls may be made at the same time. Different handles may always be
 * used from different threads.
 *
 * Strings are UTF-8. They end with NUL unless a length comes with them. Strings that the library returns belong to it.
 * Sizes and offsets are in bytes, counts are in elements. Matrices are row-major, and shapes begin with the outermost
 * dimension.
 */
#ifndef NWC_NWC_H_
#define NWC_NWC_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) && defined(NWC_EXPORTS)
#define NWC_API __declspec(dllexport)
#elif defined(__GNUC__)
#define NWC_API __attribute__((visibility("default")))
#else
#define NWC_API
#endif

/* ---------------------------------------------------------------------------------------------------------------- */
/* Version and status                                                                                               */

#define NWC_VERSION_MAJOR 0
#define NWC_VERSION_MINOR 2
#define NWC_VERSION_PATCH 0

/* The version of the linked library: as text, for example "0.2.0", and as major * 1000000 + minor * 1000 + patch. */
NWC_API const char* nwc_version_string(void);
NWC_API uint32_t nwc_version_number(void);
/* The newest container version that this library knows, as major * 1000 + minor. Files of the same major version and a
 * newer minor version can be read too, unless they declare that they need a newer feature. */
NWC_API uint32_t nwc_format_version(void);

/* The numbers are stable and come in families: 10s for unrecognised or unsupported input, 20s for corrupt input, 40s
 * for arguments, 60s for memory and limits, 70s for devices, 80s for I/O. */
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

/* Returns the name of a status, for example "checksum mismatch". The string is static, and any number has one. */
NWC_API const char* nwc_status_string(nwc_status status);

/* A buffer for the error text of a call that creates a handle. Every call that takes one also takes NULL. The text is
 * cut to size_bytes, the final NUL included; 512 bytes hold every message except those with long file paths. On success
 * the text is empty. This struct has no struct_size, because it will never have more than these two fields. */
typedef struct nwc_error_detail {
  char* text;
  size_t size_bytes;
} nwc_error_detail;

/* ---------------------------------------------------------------------------------------------------------------- */
/* Callbacks                                                                                                        */

typedef uint32_t nwc_log_level;
enum { NWC_LOG_DEBUG = 0, NWC_LOG_INFO = 1, NWC_LOG_WARNING = 2, NWC_LOG_ERROR = 3 };

/* Receives one line of the log, without a line end. The library calls it only while a call on the handle lasts, and
 * from any thread that works for that call: the caller's, one of its own, or one of an nwc_runner. */
typedef void (*nwc_log_callback)(void* user, nwc_log_level level, const char* message);

/* Reports that `done` of `total` units of work are finished. The call that takes it says what a unit is: a tile, a
 * layer or a tensor. A return value other than 0 cancels the call, which then fails with CANCELLED. Worker threads may
 * call it, but only one at a time. */
typedef int (*nwc_progress_callback)(void* user, uint64_t done, uint64_t total);

/* A runner replaces the library's own threads by the program's. run() has to call task(task_data, index, worker) once
 * for every index in [0, count), in any order and on any threads, and return when all of these calls have returned.
 * `worker` is below num_workers, and calls with the same worker must not overlap. The library calls run() from one
 * thread at a time per handle, and only while a call on the handle lasts. This struct has no struct_size, because it
 * will never have more than these three fields. */
typedef void (*nwc_task)(void* task_data, uint32_t index, uint32_t worker);
typedef struct nwc_runner {
  void* user;
  uint32_t num_workers; /* at least 1 */
  void (*run)(void* user, uint32_t count, nwc_task task, void* task_data);
} nwc_runner;

/* Memory of the program's own for what grows with a model: a session's weights, caches, activations and buffers in the
 * host's memory (nwc_session_plan, without decoder_bytes). What remains, metadata, tokenizer and the decoder's own
 * tables and windows, comes from the heap. allocate() returns memory of size_bytes that is aligned to a power of two,
 * or NULL, which makes the call fail with OUT_OF_MEMORY. Both may be called from any thread that makes a call on the
 * handle, one at a time per handle, and release() when the handle is destroyed, too. This struct has no struct_size,
 * because it will never have more than these three fields. */
typedef struct nwc_allocator {
  void* user;
  void* (*allocate)(void* user, size_t size_bytes, size_t alignment);
  void (*release)(void* user, void* memory, size_t size_bytes);
} nwc_allocator;

/* A Vulkan device of the program's own, to work on instead of one that nwc makes. The handles have Vulkan's own types:
 * VkInstance, which has to be made for Vulkan 1.1 or later, VkPhysicalDevice, VkDevice and VkQueue, of a family that
 * computes. All of it, `user` too, must outlive the decoder or session; created_with is only read while the call lasts.
 * nwc makes its own buffers, pipelines and command pools on the device, and destroys nothing else. */
typedef struct nwc_vulkan_objects {
  uint32_t struct_size;
  uint32_t queue_family;
  struct VkInstance_T* instance;
  struct VkPhysicalDevice_T* physical_device;
  struct VkDevice_T* device;
  struct VkQueue_T* queue;
  /* What the device was made with, its chain of features included: nwc uses nothing that was not enabled. It gains by
   * subgroupSizeControl, computeFullSubgroups, storageBuffer16BitAccess, shaderIntegerDotProduct and the extension
   * VK_EXT_external_memory_host, and needs none of them. NULL: the device has neither extensions nor features. */
  const struct VkDeviceCreateInfo* created_with;
  /* vkGetInstanceProcAddr of the program's loader; NULL: that of the system's loader library, which is then loaded. */
  void (*(*get_instance_proc_addr)(struct VkInstance_T* instance, const char* name))(void);
  /* Called before and after each submission, from any thread, nwc's own included, which decode ahead. Both NULL: nobody
   * else uses the queue while a call on the handle lasts. */
  void (*lock_queue)(void* user);
  void (*unlock_queue)(void* user);
  void* user;
} nwc_vulkan_objects;
static inline void nwc_vulkan_objects_init(nwc_vulkan_objects* objects) {
  memset(objects, 0, sizeof *objects);
  objects->struct_size = (uint32_t)sizeof *objects;
}

/* ---------------------------------------------------------------------------------------------------------------- */
/* Model: an open file                                                                                              */

/* Threads: a model is immutable, and several threads may make any calls on it at once. Decoders and sessions keep alive
 * what they need of it, so handles may be destroyed in any order. */
typedef struct nwc_model nwc_model;

/* Opens a file and reads its metadata. Tensors are read when they are decoded. The file stays open while the model, or
 * a handle made from it, exists; it is read and never mapped. The file should not change meanwhile. Calls stay safe if
 * it does: they fail with TRUNCATED if it has become shorter. Changed bytes fail with CHECKSUM, or decode to wrong
 * numbers if checksums are skipped or were computed earlier. A new file that takes its name by renaming has no effect.
 * errors: IO, UNRECOGNIZED, UNSUPPORTED (also for codec and checkpoint files), UNSUPPORTED_VERSION, CORRUPT, TRUNCATED,
 * CHECKSUM, LIMIT, OUT_OF_MEMORY. */
NWC_API nwc_status nwc_model_open_path(const char* path, const nwc_error_detail* error, nwc_model** out_model);

/* Opens the `size_bytes` at `data`, of any alignment. They are not copied: they must stay there unchanged while the
 * model, or a handle made from it, exists. The program may pass a file that it has mapped. It is then responsible that
 * nobody shortens the file, because reading beyond the new end would end the process (SIGBUS). errors: as above. */
NWC_API nwc_status nwc_model_open_memory(const void* data, size_t size_bytes, const nwc_error_detail* error,
                                         nwc_model** out_model);

/* Opens the `size_bytes` from `offset` of an open file: a package's asset, say. The descriptor is duplicated, so that
 * the program may close its own at once, and its position is neither used nor moved. size_bytes 0: up to the file's
 * end. errors: as above; INVALID_ARGUMENT (a negative descriptor, a range beyond the file's end). */
NWC_API nwc_status nwc_model_open_fd(int fd, uint64_t offset, uint64_t size_bytes, const nwc_error_detail* error,
                                     nwc_model** out_model);

/* Callbacks through which the library reads a file. read() copies `size_bytes` from `offset` of the file to `out` and
 * returns 0; any other value means that it failed, which is reported as IO. The range always lies inside the file.
 * Several threads may call read() at once, but only while a call on the model, or on a handle made from it, lasts. */
typedef struct nwc_read_callbacks {
  uint32_t struct_size;
  uint32_t reserved;   /* 0 */
  uint64_t size_bytes; /* the size of the whole file */
  void* user;
  int (*read)(void* user, uint64_t offset, void* out, size_t size_bytes);
  void (*close)(void* user); /* may be NULL. It is called once, when the last handle that needs the file is destroyed,
                                and not at all if opening fails */
} nwc_read_callbacks;
static inline void nwc_read_callbacks_init(nwc_read_callbacks* callbacks) {
  memset(callbacks, 0, sizeof *callbacks);
  callbacks->struct_size = (uint32_t)sizeof *callbacks;
}
NWC_API nwc_status nwc_model_open_callbacks(const nwc_read_callbacks* callbacks, const nwc_error_detail* error,
                                            nwc_model** out_model);

/* `model` may be NULL. */
NWC_API void nwc_model_destroy(nwc_model* model);

/* Returns the error text of the calling thread's last failed call on this handle, and "" if none has failed. The text
 * is valid until the thread's next failed call on the handle, the thread's end, or the handle's destruction. */
NWC_API const char* nwc_model_last_error(const nwc_model* model);

typedef struct nwc_model_info {
  uint32_t struct_size;
  uint32_t num_tensors;
  uint32_t num_layers_stored; /* groups of tensors in execution order, see nwc_model_layer */
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

/* These calls look up, by key, what the file says about its network and its tokenizer. Keys that do not apply to a
 * model are absent, and later versions add more keys. Ask for those that the program needs, and take NOT_FOUND for
 * "no".
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
 *   chat_template        string  the instruct model's template (Jinja) as it was published; absent: there is none
 *   chat_format          string  the template's family, for example "chatml"; absent: nwc_chat_format cannot format it
 *   chat_default_system  string  the system text that stands for one that is not given
 *   num_chat_stops       u64     an answer ends at any of these texts, see nwc_generate_params::stop_strings:
 *   chat_stop.0, .1, ... string
 *
 * errors: NOT_FOUND, INVALID_ARGUMENT (the value has another type; get_f64 accepts u64 as well). */
NWC_API nwc_status nwc_model_get_u64(const nwc_model* model, const char* key, uint64_t* out_value);
NWC_API nwc_status nwc_model_get_f64(const nwc_model* model, const char* key, double* out_value);
/* The string lives as long as the model. */
NWC_API nwc_status nwc_model_get_string(const nwc_model* model, const char* key, const char** out_value);
typedef uint32_t nwc_value_type;
enum { NWC_VALUE_U64 = 0, NWC_VALUE_F64 = 1, NWC_VALUE_STRING = 2 };
/* Lists the keys that this model has, in the order above. Count the index up from 0 until the call fails with
 * NOT_FOUND. The keys live as long as the model. */
NWC_API nwc_status nwc_model_key_at(const nwc_model* model, uint32_t index, const char** out_key,
                                    nwc_value_type* out_type);

/* Metadata are pairs of a key and a text: a name or a decimal number. doc/format.md, section 9, lists the keys. */
typedef uint32_t nwc_metadata;
enum {
  NWC_METADATA_PROVENANCE = 0, /* the program that made the file, its inputs and settings */
  NWC_METADATA_QUALITY = 1     /* the quality card: bpw, perplexity, KL divergence, and the text used */
};
NWC_API nwc_status nwc_model_metadata_count(const nwc_model* model, nwc_metadata section, uint32_t* out_count);
/* Entries are sorted by key. The strings live as long as the model. errors: NOT_FOUND. */
NWC_API nwc_status nwc_model_metadata_at(const nwc_model* model, nwc_metadata section, uint32_t index,
                                         const char** out_key, const char** out_value);
NWC_API nwc_status nwc_model_metadata_find(const nwc_model* model, nwc_metadata section, const char* key,
                                           const char** out_value);

/* Element types, with the numbers that they have in the file. Decoders deliver F32, F16 and BF16. */
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
  /* Floats of 8 bits; their names say how many bits exponent and mantissa have. Decoders convert them, too. */
  NWC_DTYPE_F8_E4M3 = 13,
  NWC_DTYPE_F8_E5M2 = 14,
  NWC_DTYPE_F8_E8M0 = 15,
  NWC_DTYPE_F8_E4M3FNUZ = 16,
  NWC_DTYPE_F8_E5M2FNUZ = 17,
  /* Packed without gaps: two F4 in a byte, four F6 in three bytes. Decoders do not convert them; see
     nwc_model_read_raw. */
  NWC_DTYPE_F4 = 18,
  NWC_DTYPE_F6_E2M3 = 19,
  NWC_DTYPE_F6_E3M2 = 20,
  NWC_DTYPE_C64 = 21 /* two F32, real and imaginary part; not converted either */
};
/* Returns the name of a type, for example "BF16", and "?" for an unknown number. */
NWC_API const char* nwc_dtype_string(nwc_dtype dtype);
/* Returns the bytes of an element; 0 for types that are smaller than a byte and for unknown numbers. */
NWC_API size_t nwc_dtype_size(nwc_dtype dtype);
/* Returns the bits of an element; 0 for unknown numbers. */
NWC_API uint32_t nwc_dtype_bits(nwc_dtype dtype);

typedef uint32_t nwc_storage;
enum { NWC_STORAGE_RAW = 0, NWC_STORAGE_RAW_DEFLATED = 1, NWC_STORAGE_CODED = 2 };

/* The length of nwc_tensor_info::shape. A tensor may have more dimensions than this. */
#define NWC_MAX_RANK 8

typedef struct nwc_tensor_info {
  uint32_t struct_size;
  nwc_storage storage;
  nwc_dtype dtype; /* the type that the original tensor had */
  uint32_t layer;  /* index for nwc_model_layer */
  uint32_t rank;
  uint32_t has_row_scales;
  uint32_t tile_rows, tile_cols; /* the size of a tile, the unit of decoding; 0 if the tensor is not coded */
  const char* name;              /* lives as long as the model */
  uint64_t shape[NWC_MAX_RANK];  /* the first dimensions, at most NWC_MAX_RANK; an empty shape is a scalar */
  uint64_t rows,
      cols; /* the tensor as a matrix: the product of the first row_dimensions dimensions, and of the others */
  uint64_t file_offset; /* of the stored bytes */
  uint64_t stored_bytes;
  double bpw;                 /* 8 * stored_bytes / (rows * cols); 0 for an empty tensor */
  const uint64_t* dimensions; /* the whole shape, `rank` entries; lives as long as the model */
  uint32_t row_dimensions;    /* 1, except for some coded tensors: experts [e][out][in] have 2 */
  uint32_t reserved;          /* 0 */
} nwc_tensor_info;
static inline void nwc_tensor_info_init(nwc_tensor_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = (uint32_t)sizeof *info;
}
/* Tensors are numbered in execution order. errors: NOT_FOUND. */
NWC_API nwc_status nwc_model_tensor(const nwc_model* model, uint32_t tensor, nwc_tensor_info* out_info);
NWC_API nwc_status nwc_model_find_tensor(const nwc_model* model, const char* name, uint32_t* out_tensor);

/* Writes the original bytes of a tensor that is not coded. Any dtype is allowed. size_bytes has to be at least
 * rows * cols * nwc_dtype_bits(dtype) / 8. errors: INVALID_ARGUMENT (coded), BUFFER_TOO_SMALL, NOT_FOUND, CHECKSUM,
 * CORRUPT, IO. */
NWC_API nwc_status nwc_model_read_raw(const nwc_model* model, uint32_t tensor, void* out_data, size_t size_bytes);

/* A stored layer is a run of consecutive tensors that inference needs together. It is one contiguous range of the file.
 */
typedef struct nwc_layer_info {
  uint32_t struct_size;
  uint32_t group; /* the layer's number in the file */
  uint32_t first_tensor, num_tensors;
  uint64_t file_offset, stored_bytes; /* the range of the file, with the gaps for alignment */
  uint64_t num_weights;
  /* The size of what nwc_decoder_decode_layer writes. Each tensor begins at a multiple of NWC_LAYER_ALIGNMENT. */
  uint64_t decoded_bytes_f32, decoded_bytes_f16; /* bf16 takes as much as f16 */
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
  NWC_TOKENIZE_ADD_SPECIAL = 1, /* put BOS in front where the tokenizer says so */
  NWC_TOKENIZE_PARSE_SPECIAL =
      2,                   /* turn control tokens that the text spells out into their ids; not for untrusted text */
  NWC_TOKENIZE_ADD_END = 4 /* put EOS behind where the tokenizer says so; for a text that does not go on */
};
/* A text of length_bytes never gives more tokens than this, unless the tokenizer has a normalizer that makes much more
 * of it: nwc_tokenize then fails with BUFFER_TOO_SMALL, and *out_count is the number of tokens. */
static inline size_t nwc_tokenize_bound(size_t length_bytes) { return 3 * length_bytes + 8; }
/* Turns a text into tokens. The text should be UTF-8, but any bytes are accepted. It need not end with NUL, and may be
 * NULL if length_bytes is 0. *out_count is the number of tokens, and is also set when the call fails with
 * BUFFER_TOO_SMALL. The call only counts if out_tokens is NULL and capacity is 0. errors: UNSUPPORTED (no tokenizer),
 * INVALID_ARGUMENT, LIMIT (over 1 GiB), CORRUPT, BUFFER_TOO_SMALL. */
NWC_API nwc_status nwc_tokenize(const nwc_model* model, const char* text, size_t length_bytes, uint32_t flags,
                                uint32_t* out_tokens, size_t capacity, size_t* out_count);
/* Turns tokens into text of at most num_tokens * nwc_model_info::max_token_bytes bytes, without a final NUL. Control
 * tokens give no text, and a token may be a part of a character. *out_length_bytes is also set when the call fails with
 * BUFFER_TOO_SMALL. The call only counts if out_text is NULL and capacity_bytes is 0. errors: UNSUPPORTED,
 * INVALID_ARGUMENT (id out of range), BUFFER_TOO_SMALL. */
NWC_API nwc_status nwc_detokenize(const nwc_model* model, const uint32_t* tokens, size_t num_tokens, char* out_text,
                                  size_t capacity_bytes, size_t* out_length_bytes);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Devices                                                                                                          */

typedef uint32_t nwc_backend;
enum {
  NWC_BACKEND_AUTO = 0, /* takes Vulkan if a device that is not a software renderer passes its self-test, and the CPU
                           otherwise. The log says what was chosen and why. If the device fails later, the log warns,
                           and the CPU repeats the failed work and does all that follows */
  NWC_BACKEND_CPU = 1,
  NWC_BACKEND_VULKAN = 2 /* fails with NO_DEVICE if there is no device, with DEVICE or DEVICE_LOST if it fails */
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
  uint32_t usable;      /* 1: the device has everything that the decoder requires */
  int32_t device_index; /* the value of nwc_decoder_params::device_index that selects this device */
  char name[256];
  char detail[256];      /* driver and versions, or the reason why the device is not usable */
  uint64_t memory_bytes; /* size of the largest device-local heap */
} nwc_device_info;
static inline void nwc_device_info_init(nwc_device_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = (uint32_t)sizeof *info;
}
/* List the Vulkan devices, the best one first. Each call loads Vulkan and unloads it again. Without a Vulkan driver the
 * count is 0. Threads: one call at a time. errors: NOT_FOUND (index). */
NWC_API nwc_status nwc_vulkan_device_count(uint32_t* out_count);
NWC_API nwc_status nwc_vulkan_device(uint32_t index, nwc_device_info* out_info);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Decoder                                                                                                          */

/* Threads: one call at a time. Only nwc_decoder_name and nwc_decoder_last_error may be called beside another call. */
typedef struct nwc_decoder nwc_decoder;

typedef struct nwc_decoder_params {
  uint32_t struct_size;
  nwc_backend backend;
  int32_t device_index;    /* Vulkan: nwc_device_info::device_index; 0: the best device by type and memory */
  uint32_t num_threads;    /* 0: one per hardware thread; at most 256. Ignored if there is a runner */
  const char* device_name; /* Vulkan: a part of the device's name; NULL: any device */
  const nwc_runner*
      runner;           /* NULL: the library's own threads. The struct is copied, but `user` must outlive the decoder */
  nwc_log_callback log; /* NULL: no log */
  void* log_user;
  uint32_t skip_checksums; /* 1: do not compute CRC-32; the coder's end states are still checked */
  uint32_t validation;     /* 1: use Vulkan's validation layer and write its messages to the log */
  /* Vulkan: a folder that keeps compiled kernels from run to run, in one file per device. It is created if its parent
   * exists. Nobody else should be able to write there. NULL: nothing is kept. Errors there are logged and cost only
   * time. */
  const char* cache_directory;
  /* Not NULL: the device to decode on. backend is AUTO, which takes a software renderer, too, or VULKAN; device_index,
   * device_name and validation are 0, as nothing is left to choose. */
  const nwc_vulkan_objects* vulkan;
} nwc_decoder_params;
static inline void nwc_decoder_params_init(nwc_decoder_params* params) {
  memset(params, 0, sizeof *params);
  params->struct_size = (uint32_t)sizeof *params;
}

/* params may be NULL, which means all defaults. A Vulkan decoder tests every kernel that it is going to use on a tile
 * whose answer is known. A kernel that answers wrongly, then or later, is no longer used, and the log says so.
 * errors: INVALID_ARGUMENT, NO_DEVICE, DEVICE, OUT_OF_MEMORY, and those of reading the file. */
NWC_API nwc_status nwc_decoder_create(const nwc_model* model, const nwc_decoder_params* params,
                                      const nwc_error_detail* error, nwc_decoder** out_decoder);
NWC_API void nwc_decoder_destroy(nwc_decoder* decoder); /* may be NULL */
/* Works like nwc_model_last_error. */
NWC_API const char* nwc_decoder_last_error(const nwc_decoder* decoder);
/* Names what decodes now: "cpu avx2" or "vulkan <device>". The string lives as long as the decoder. */
NWC_API const char* nwc_decoder_name(const nwc_decoder* decoder);
/* Returns the backend that decodes now: NWC_BACKEND_CPU or NWC_BACKEND_VULKAN. */
NWC_API nwc_backend nwc_decoder_backend(const nwc_decoder* decoder);

/* Decodes a whole tensor to out_data [rows][cols]. dtype is F32, F16 or BF16, and out_data is aligned to its elements.
 * size_bytes has to be at least rows * cols * nwc_dtype_size(dtype). Raw tensors are converted if they are of a float
 * type of 8 or more bits. All backends decode the same integers from the file; the weights that they make of these
 * agree within the tolerance of doc/format.md, section 5.5. progress may be NULL; it counts the tensor's tiles. errors:
 * NOT_FOUND, INVALID_ARGUMENT (dtype), UNSUPPORTED (a raw tensor of another type), BUFFER_TOO_SMALL, CHECKSUM, CORRUPT,
 * TRUNCATED, CANCELLED, DEVICE, IO, OUT_OF_MEMORY. */
NWC_API nwc_status nwc_decoder_decode_tensor(nwc_decoder* decoder, uint32_t tensor, nwc_dtype dtype,
                                             nwc_progress_callback progress, void* progress_user, void* out_data,
                                             size_t size_bytes);
/* Decodes rows [row_begin, row_end) to out_data [row_end - row_begin][cols]. It reads only the tiles that hold these
 * rows. The range may be empty. errors: as above, and INVALID_ARGUMENT for a range beyond the tensor's rows. */
NWC_API nwc_status nwc_decoder_decode_rows(nwc_decoder* decoder, uint32_t tensor, uint64_t row_begin, uint64_t row_end,
                                           nwc_dtype dtype, nwc_progress_callback progress, void* progress_user,
                                           void* out_data, size_t size_bytes);
/* Decodes all tensors of a stored layer into one buffer. Tensor first_tensor + i begins at out_offsets[i], a multiple
 * of NWC_LAYER_ALIGNMENT; the gaps between tensors are not written. size_bytes has to be at least
 * nwc_layer_info::decoded_bytes_f32 or _f16. out_offsets has num_tensors entries, or is NULL. progress counts tensors.
 * errors: as above. */
NWC_API nwc_status nwc_decoder_decode_layer(nwc_decoder* decoder, uint32_t layer, nwc_dtype dtype,
                                            nwc_progress_callback progress, void* progress_user, void* out_data,
                                            size_t size_bytes, uint64_t* out_offsets);

/* Rows of a tensor in a buffer of nwc_vulkan_objects::device. This struct has no struct_size, because it will never
 * have more than these fields. */
typedef struct nwc_buffer_rows {
  uint32_t tensor;
  nwc_dtype dtype; /* F32, F16 or BF16 */
  uint64_t row_begin, row_end;
  uint64_t buffer;       /* VkBuffer, made with the usages STORAGE_BUFFER and TRANSFER_DST */
  uint64_t buffer_bytes; /* VkBufferCreateInfo::size */
  uint64_t offset;       /* of the first element in the buffer, a multiple of 4 */
} nwc_buffer_rows;
/* Decodes to device memory, [row_end - row_begin][cols] each, without a copy through the host; many at once are faster
 * than one after another. Nothing but these elements is written. The work is done when the call returns. Commands that
 * read the rows begin with a memory barrier, as after any other submission. progress may be NULL; it counts tiles.
 * errors: UNSUPPORTED (the decoder has no nwc_vulkan_objects, or the CPU decodes), and those of
 * nwc_decoder_decode_rows. After an error the contents of the rows are unspecified. */
NWC_API nwc_status nwc_decoder_decode_to_buffers(nwc_decoder* decoder, const nwc_buffer_rows* rows, size_t num_rows,
                                                 nwc_progress_callback progress, void* progress_user);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Session                                                                                                          */

/* Threads: one call at a time. Only nwc_session_name and nwc_session_last_error may be called beside another call. */
typedef struct nwc_session nwc_session;

typedef uint32_t nwc_weight_mode;
enum {
  NWC_WEIGHTS_AUTO = 0, /* takes RESIDENT if there is no budget or everything fits it; otherwise FUSED if the codec's
                           synthesis is linear; otherwise CACHED or STREAMED */
  NWC_WEIGHTS_RESIDENT = 1, /* everything is decoded once, when the session is created */
  NWC_WEIGHTS_STREAMED = 2, /* there are two layer buffers: one layer is decoded while the other one computes */
  NWC_WEIGHTS_CACHED = 3,   /* as many layers as the budget allows are resident; the others are streamed */
  /* Single tokens (up to 8 on a Vulkan device) are multiplied by the coded weights. A Vulkan device keeps these in its
     memory. For more tokens at once, one layer after the other is decoded into a buffer. If the budget leaves memory,
     it holds decoded layers, as in CACHED.
     The other modes round decoded weights to weight_precision, which is F16 by default; FUSED multiplies by weights
     that are not rounded. Its logits differ from theirs by the effect of that rounding, and models answer it
     differently: of 450 random models 6 differed by more than 6 % of the largest logit in F16, and 56 in BF16. In F32
     the largest difference was 1.5e-4. RESIDENT, STREAMED and CACHED give the same logits on the CPU, bit for bit. */
  NWC_WEIGHTS_FUSED = 4
};

/* The type in which decoded weights and the KV cache are held. Arithmetic is always in f32. */
typedef uint32_t nwc_precision;
enum {
  /* For weights PACKED or Q8, which give the same results, where that is exact (nwc_weight_choice). Else it takes F16;
   * if F16 would make weights infinite, or round most weights of a matrix to 0 or coarsely, it takes BF16 and the log
   * warns. For the KV cache: F16. */
  NWC_PRECISION_DEFAULT = 0,
  NWC_PRECISION_F32 = 1,
  NWC_PRECISION_F16 = 2, /* is kept for such weights, too, and the log warns */
  NWC_PRECISION_BF16 = 3,
  /* For weights alone: coded weights are held as the integers that they are, exactly, in one byte (Q8), or in as many
   * bits as nearly all of some columns need (PACKED, about R + 2 bits where R bits are coded). On the CPU products
   * round their inputs to 16 bits. Where the codec's weights are not integers times scales, both round them to 8 bits
   * with a scale for 32 columns of a row (nwc_session_plan::weights_requantized), which changes a weight by at most
   * 1/252 of the largest of these columns, each by its column's scale. */
  NWC_PRECISION_Q8 = 4,
  NWC_PRECISION_PACKED = 5
};
/* Returns "auto" for DEFAULT, "f32", "f16", "bf16", "q8" or "packed", and "?" for an unknown number. */
NWC_API const char* nwc_session_precision_string(nwc_precision precision);

typedef struct nwc_session_params {
  uint32_t struct_size;
  nwc_backend backend;      /* decodes and evaluates. AUTO goes on with the CPU if the device fails */
  int32_t device_index;     /* as in nwc_decoder_params */
  uint32_t num_threads;     /* as in nwc_decoder_params */
  const char* device_name;  /* as in nwc_decoder_params */
  const nwc_runner* runner; /* as in nwc_decoder_params. Decoding and computing share it and take turns */
  nwc_log_callback log;
  void* log_user;
  nwc_weight_mode mode;
  uint32_t context; /* tokens that the KV cache holds; 0: the model's maximum, at most 8192 */
  uint32_t batch;   /* the most tokens that pass through the layers together; 0: the plan chooses */
  nwc_precision weight_precision;
  nwc_precision kv_precision;       /* BF16 is not allowed */
  uint32_t skip_checksums;          /* 1: do not compute the CRC-32 of a part of the file at its first use */
  uint64_t memory_budget_bytes;     /* upper limit of nwc_session_plan::total_bytes; 0: no limit */
  uint32_t count_file;              /* 1: the file lies in memory, and its bytes count against the budget */
  uint32_t reserved;                /* 0 */
  const char* cache_directory;      /* as in nwc_decoder_params */
  const nwc_vulkan_objects* vulkan; /* as in nwc_decoder_params */
  const nwc_allocator* allocator;   /* NULL: the heap. The struct is copied, but `user` must outlive the session */
} nwc_session_params;
static inline void nwc_session_params_init(nwc_session_params* params) {
  memset(params, 0, sizeof *params);
  params->struct_size = (uint32_t)sizeof *params;
}

typedef uint32_t nwc_weight_choice;
/* Why weights are held as they are. */
enum {
  NWC_WEIGHT_CHOICE_ASKED = 0, /* by name */
  NWC_WEIGHT_CHOICE_NO_INTEGERS =
      1,                           /* DEFAULT: the codec's weights are not integers times scales, or nothing is coded */
  NWC_WEIGHT_CHOICE_ON_DEVICE = 2, /* DEFAULT: a Vulkan device takes PACKED */
  NWC_WEIGHT_CHOICE_SMALLER = 3,   /* DEFAULT: PACKED, as not all weights would stay in memory as Q8 */
  NWC_WEIGHT_CHOICE_NOT_MEASURED = 4, /* DEFAULT: PACKED, as there was no memory to measure with, or a device failed */
  /* DEFAULT: Q8 if it is faster by more than a twentieth, else PACKED. Products of both are measured on made-up weights
   * of the model's size, or 48 MiB if it is larger, once a process and number of threads, in some 30 ms. */
  NWC_WEIGHT_CHOICE_FASTER = 5
};

/* The memory that a session will take, computed from the metadata before anything is allocated. The model itself, that
 * is, metadata and tokenizer, is not counted. */
typedef struct nwc_session_plan {
  uint32_t struct_size;
  nwc_weight_mode mode; /* the chosen mode, never AUTO */
  uint32_t context;
  uint32_t batch;
  uint32_t num_layers;          /* transformer blocks */
  uint32_t num_resident_layers; /* this many first layers stay decoded; the others are streamed, or multiplied coded */
  uint32_t embedding_resident;  /* 0: a row is decoded when a token needs it */
  uint32_t head_resident;       /* 0: the output head is decoded in bands of rows for every batch */
  uint64_t weight_bytes;        /* weights that stay decoded */
  uint64_t stream_buffer_bytes; /* buffers for the other weights */
  uint64_t kv_cache_bytes;
  uint64_t activation_bytes;
  uint64_t decoder_bytes;            /* an upper bound of what the decoder allocates while it works */
  uint64_t file_bytes;               /* the size of the .nwc file; part of the total only with count_file */
  uint64_t total_bytes;              /* the sum, which is compared with the budget */
  uint64_t streamed_bytes_per_batch; /* stored bytes that are read and decoded again for every batch of tokens */
  uint64_t needed_resident_bytes;    /* total_bytes of RESIDENT with the same context */
  uint64_t needed_streamed_bytes;    /* the least total_bytes of STREAMED with the same context */
  uint64_t needed_fused_bytes;       /* the least total_bytes of FUSED with the same context */
  nwc_precision weight_precision;    /* the chosen type, never DEFAULT */
  uint32_t weights_requantized; /* 1: Q8 or PACKED are not the codec's integers, but its weights rounded to 8 bits */
  nwc_weight_choice weight_choice;
  uint32_t reserved;         /* 0 */
  uint64_t f16_weight_bytes; /* of all matrices together in this form */
  uint64_t q8_weight_bytes;  /* 0: not worked out, as are the others */
  uint64_t packed_weight_bytes;
  double q8_weights_per_second; /* measured, of products of one token; 0: not measured */
  double packed_weights_per_second;
  uint32_t num_experts;      /* of all layers of a mixture of experts; 0: the model is none */
  uint32_t num_expert_slots; /* decoded experts that are kept, the last used ones; num_experts: all */
} nwc_session_plan;
static inline void nwc_session_plan_init(nwc_session_plan* plan) {
  memset(plan, 0, sizeof *plan);
  plan->struct_size = (uint32_t)sizeof *plan;
}

/* params may be NULL, which means all defaults. errors: BUDGET (the text says what would fit), UNSUPPORTED (the model
 * cannot be run; the text gives the reason that the file states), INVALID_ARGUMENT, CORRUPT (a tensor that the network
 * needs is missing or has another shape). */
NWC_API nwc_status nwc_session_make_plan(const nwc_model* model, const nwc_session_params* params,
                                         const nwc_error_detail* error, nwc_session_plan* out_plan);

/* params may be NULL, which means all defaults. progress may be NULL; it counts decoded layers. errors: those of
 * nwc_session_make_plan and nwc_decoder_create. */
NWC_API nwc_status nwc_session_create(const nwc_model* model, const nwc_session_params* params,
                                      nwc_progress_callback progress, void* progress_user,
                                      const nwc_error_detail* error, nwc_session** out_session);
NWC_API void nwc_session_destroy(nwc_session* session); /* may be NULL */
/* Works like nwc_model_last_error. */
NWC_API const char* nwc_session_last_error(const nwc_session* session);
/* Returns the name of the session's decoder. The string lives as long as the session. */
NWC_API const char* nwc_session_name(const nwc_session* session);
NWC_API nwc_status nwc_session_get_plan(const nwc_session* session, nwc_session_plan* out_plan);

/* What the experts of a mixture took since the session was made; all 0 for other models. */
typedef struct nwc_expert_stats {
  uint32_t struct_size;
  uint32_t reserved;       /* 0 */
  uint64_t hits;           /* experts that a batch of tokens needed and that lay decoded in memory */
  uint64_t misses;         /* experts that had to be decoded */
  uint64_t bytes_read;     /* stored bytes of those */
  double stall_seconds;    /* in which the tokens waited for them */
  uint64_t predicted;      /* experts whose stored bytes were asked for before it was known that they are needed */
  uint64_t predicted_used; /* of these, needed ones */
  double read_seconds;     /* of the stall, the time in which nothing had been read that could be decoded */
} nwc_expert_stats;
static inline void nwc_expert_stats_init(nwc_expert_stats* stats) {
  memset(stats, 0, sizeof *stats);
  stats->struct_size = (uint32_t)sizeof *stats;
}
NWC_API nwc_status nwc_session_get_expert_stats(const nwc_session* session, nwc_expert_stats* out_stats);

/* Returns the length of the sequence: the tokens that were evaluated, or drawn and reported. */
NWC_API uint32_t nwc_session_position(const nwc_session* session);
/* Forgets all tokens from `position` on. errors: INVALID_ARGUMENT (`position` is beyond the current one). */
NWC_API nwc_status nwc_session_truncate(nwc_session* session, uint32_t position);

/* Keeps the sequence with what its tokens left in the KV cache, so that another session can go on without evaluating
 * them again: after a restart, or with many continuations of one prompt. nwc_session_state_size says how many bytes
 * nwc_session_save_state needs now, up to the next call that changes the sequence. errors: UNSUPPORTED (an encoder),
 * BUFFER_TOO_SMALL, those of the device. */
NWC_API nwc_status nwc_session_state_size(const nwc_session* session, size_t* out_size_bytes);
NWC_API nwc_status nwc_session_save_state(nwc_session* session, void* out_state, size_t capacity_bytes);
/* Replaces the sequence by one that a session of the same file has kept, with the same kv_precision; context, mode,
 * precision of weights and backend may be others. A state may be hostile: it is checked before anything changes, and
 * tokens that are there go on to be evaluated. nwc_session_eval or nwc_session_generate then append to it.
 * errors: UNSUPPORTED, UNRECOGNIZED, UNSUPPORTED_VERSION, TRUNCATED, CHECKSUM, CORRUPT, INVALID_ARGUMENT (of another
 * file, or another kv_precision), LIMIT (more tokens than the session's context): in all of these the session is as
 * before; and those of the device, after which the sequence is empty. */
NWC_API nwc_status nwc_session_load_state(nwc_session* session, const void* state, size_t size_bytes);

typedef uint32_t nwc_logits;
enum {
  NWC_LOGITS_NONE = 0, /* fill the KV cache only; out_logits may be NULL */
  NWC_LOGITS_LAST = 1, /* write out_logits [vocab_size], those after the last token */
  NWC_LOGITS_ALL = 2   /* write out_logits [num_tokens][vocab_size] */
};
/* From now on nwc_session_eval and nwc_session_generate report the tokens that they evaluate: before each batch of at
 * most nwc_session_plan::batch tokens, and when all are done. A return value other than 0 before a batch cancels the
 * call, which then fails with CANCELLED. progress NULL: no reports. */
NWC_API nwc_status nwc_session_set_progress(nwc_session* session, nwc_progress_callback progress, void* progress_user);

/* Appends at least one token at the current position and evaluates it. out_logits has room for `capacity` floats. After
 * an error the position is the same as before the call. errors: INVALID_ARGUMENT (token id, `which`), LIMIT (beyond the
 * context), BUFFER_TOO_SMALL, and those of decoding. */
NWC_API nwc_status nwc_session_eval(nwc_session* session, const uint32_t* tokens, size_t num_tokens, nwc_logits which,
                                    float* out_logits, size_t capacity);

typedef struct nwc_generate_params {
  uint32_t struct_size;
  uint32_t max_tokens; /* 0: until the context is full */
  float temperature;   /* 0: always take the most likely token */
  uint32_t top_k;      /* 0: draw from all tokens */
  float top_p;         /* 0 or 1: draw from all tokens */
  uint32_t ignore_eos; /* 1: do not stop at an end-of-sequence token */
  uint64_t seed;       /* the same seed, model and settings give the same tokens on the same backend */
  /* Of the tokens that top_k and top_p leave, keep those that are at least min_p times as probable as the likeliest,
   * after the temperature; 0 to 1, 0: all. */
  float min_p;
  /* Penalties come before everything else, and for temperature 0, too. They look at the tokens that this call has
   * drawn, and not at the prompt. The logit of a token that was drawn is divided by repetition_penalty if it is
   * positive, and multiplied by it if not; then presence_penalty is subtracted, and frequency_penalty as often as it
   * was drawn. */
  float repetition_penalty; /* positive; 0 or 1: off */
  float presence_penalty;
  float frequency_penalty;
  /* Texts at which the generation stops: at most 64, of 1 to 1024 bytes each. A stop string that spells out one control
   * token as a whole means this token. A token whose text may belong to another one is reported when that is decided,
   * and of its text what lies in front of the stop string. May be NULL if num_stop_strings is 0. */
  const char* const* stop_strings;
  uint32_t num_stop_strings;
  uint32_t reserved; /* 0 */
} nwc_generate_params;
static inline void nwc_generate_params_init(nwc_generate_params* params) {
  memset(params, 0, sizeof *params);
  params->struct_size = (uint32_t)sizeof *params;
}

typedef uint32_t nwc_stop_reason;
enum {
  NWC_STOP_MAX_TOKENS = 0,
  NWC_STOP_EOS = 1,          /* an end-of-sequence token was drawn, with or without room for it */
  NWC_STOP_CONTEXT_FULL = 2, /* the context has no room for the token that was drawn; it is not reported */
  NWC_STOP_CALLBACK = 3,
  NWC_STOP_STRING = 4 /* one of stop_strings came; it is neither reported nor a part of the sequence */
};
/* Receives a token that was drawn and its text of length_bytes bytes. The text may be a part of a character, and is
 * empty without a tokenizer. A return value other than 0 stops the generation. */
typedef int (*nwc_token_callback)(void* user, uint32_t token, const char* text, size_t length_bytes);

/* Appends `prompt`, which has at least one token, and then draws tokens one by one. Each is appended and reported. The
 * sequence ends with the last token that was reported, and a later call goes on from there. An end-of-sequence token is
 * neither appended nor reported. params may be NULL, which means all defaults. out_stop_reason may be NULL.
 * errors: those of nwc_session_eval. A stop by the callback is not an error. */
NWC_API nwc_status nwc_session_generate(nwc_session* session, const uint32_t* prompt, size_t num_prompt,
                                        const nwc_generate_params* params, nwc_token_callback callback,
                                        void* callback_user, nwc_stop_reason* out_stop_reason);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Encoders                                                                                                         */

typedef uint32_t nwc_encoder_kind;
enum {
  NWC_ENCODER_NONE = 0, /* the model predicts tokens */
  NWC_ENCODER_TEXT = 1,
  NWC_ENCODER_IMAGE = 2
};
typedef struct nwc_encoder_info {
  uint32_t struct_size;
  nwc_encoder_kind kind;
  uint32_t hidden_size;                         /* numbers of a token's hidden state, also with NONE */
  uint32_t embedding_size;                      /* numbers of an embedding; 0 with NONE */
  uint32_t max_tokens;                          /* of a text; of an image: those that it has */
  uint32_t channels, image_height, image_width; /* of an image, else 0 */
  uint32_t normalized;                          /* 1: embeddings have length 1 */
  uint32_t reserved;                            /* 0 */
} nwc_encoder_info;
static inline void nwc_encoder_info_init(nwc_encoder_info* info) {
  memset(info, 0, sizeof *info);
  info->struct_size = (uint32_t)sizeof *info;
}
/* Says what the model takes and gives. errors: UNSUPPORTED (the file has no description of the model). */
NWC_API nwc_status nwc_model_get_encoder(const nwc_model* model, nwc_encoder_info* out_info);

/* Reads one text whole and gives its embedding; what the session held before is forgotten. The tokens are those of
 * nwc_tokenize with NWC_TOKENIZE_ADD_SPECIAL and NWC_TOKENIZE_ADD_END. out_hidden [num_tokens][hidden_size] has room
 * for hidden_capacity floats, out_embedding [embedding_size] for embedding_capacity; either may be NULL. An encoder's
 * session takes a batch of the whole context, and nwc_session_eval and nwc_session_generate give UNSUPPORTED. errors:
 * UNSUPPORTED (no encoder of texts), INVALID_ARGUMENT (token id, no tokens), LIMIT (more tokens than the session's
 * context), BUFFER_TOO_SMALL, and those of decoding. After an error the session is of use as before. */
NWC_API nwc_status nwc_session_embed(nwc_session* session, const uint32_t* tokens, size_t num_tokens, float* out_hidden,
                                     size_t hidden_capacity, float* out_embedding, size_t embedding_capacity);
/* The same of an image: pixels [channels][image_height][image_width], resized and normalized as the model was trained.
 * out_hidden is [max_tokens][hidden_size]. errors: UNSUPPORTED (no encoder of images), INVALID_ARGUMENT (another number
 * of pixels, or one that is not finite), BUFFER_TOO_SMALL, and those of decoding. */
NWC_API nwc_status nwc_session_embed_image(nwc_session* session, const float* pixels, size_t num_pixels,
                                           float* out_hidden, size_t hidden_capacity, float* out_embedding,
                                           size_t embedding_capacity);
/* Final hidden states, after the final norm, of `count` tokens of the last batch that passed through the layers, from
 * its token `first` on; of a model that predicts tokens that is what its logits are made of, and the last batch are the
 * last tokens of nwc_session_eval, at most nwc_session_plan::batch. out_hidden [count][hidden_size].
 * errors: INVALID_ARGUMENT (there are no such tokens), BUFFER_TOO_SMALL. */
NWC_API nwc_status nwc_session_hidden(nwc_session* session, uint32_t first, uint32_t count, float* out_hidden,
                                      size_t capacity);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Chat                                                                                                             */

typedef uint32_t nwc_chat_role;
enum { NWC_CHAT_SYSTEM = 0, NWC_CHAT_USER = 1, NWC_CHAT_ASSISTANT = 2 };
/* This struct has no struct_size, because it will never have more than these four fields. */
typedef struct nwc_chat_message {
  nwc_chat_role role;
  uint32_t reserved; /* 0 */
  const char* text;  /* need not end with NUL; may be NULL if length_bytes is 0 */
  size_t length_bytes;
} nwc_chat_message;

/* Writes the text that an instruct model was trained on for a conversation: at most one system message, which comes
 * first, then user and assistant by turns, the user first. If the last message is the user's, the text ends with what
 * opens an answer, and nwc_session_generate goes on from there; give it the texts chat_stop.* of nwc_model_get_string
 * as stop_strings.
 *
 * num_done is 0 for a conversation that a session has not seen. For a further turn it is the number of messages that
 * the session has already, the last of them its answer: the text is then only what the others add, to be evaluated
 * where the session stands.
 *
 * *out_tokenize_flags are the flags for nwc_tokenize, which turn the control tokens in the text into their ids. Those
 * in the messages are turned, too: remove them from messages that come from somebody who is not trusted. date is the
 * day, for example "2026-11-26", which few formats write; NULL: today, in local time. out_text may be NULL, and
 * *out_length_bytes is set when the call fails with BUFFER_TOO_SMALL, too. The text has no final NUL.
 * errors: UNSUPPORTED (the file has no chat template, or an unknown one), INVALID_ARGUMENT (the order of the roles,
 * num_done, a system message that the model does not take), BUFFER_TOO_SMALL. */
NWC_API nwc_status nwc_chat_format(const nwc_model* model, const nwc_chat_message* messages, size_t num_messages,
                                   size_t num_done, const char* date, char* out_text, size_t capacity_bytes,
                                   size_t* out_length_bytes, uint32_t* out_tokenize_flags);

/* The time that a session would take to generate tokens one by one. */
typedef struct nwc_session_estimate {
  uint32_t struct_size;
  uint32_t reserved;                /* 0 */
  double mac_per_weight;            /* multiply-accumulates of the synthesis network for a weight */
  double decode_weights_per_second; /* measured on this file; 0: nothing is coded */
  double fused_weights_per_second;  /* the speed of products with coded weights */
  double memory_bytes_per_second;   /* the speed at which a product with one token reads decoded weights */
  uint64_t resident_weights;        /* coded weights that are decoded once */
  uint64_t weights_per_token;       /* coded weights that are decoded, or multiplied coded, for every token */
  double load_seconds;
  double decode_seconds_per_token;
  double multiply_seconds_per_token;
  double seconds_per_token; /* the sum of both; attention and the embedding look-up are left out */
  /* Of a mixture whose experts do not all stay decoded. They are read while others are decoded, so that a token takes
   * the longer of the two. */
  double expert_hits;            /* the share of a token's experts that is expected to lie in memory; 1: all */
  double read_bytes_per_second;  /* measured, of experts read from the file ahead; 0: not read ahead */
  uint64_t read_bytes_per_token; /* for the others, of the file */
  double read_seconds_per_token;
} nwc_session_estimate;
static inline void nwc_session_estimate_init(nwc_session_estimate* estimate) {
  memset(estimate, 0, sizeof *estimate);
  estimate->struct_size = (uint32_t)sizeof *estimate;
}
/* Measures the speed of the session's decoder on a part of the file and predicts from it, within a factor of two. This
 * takes about 0.1 s beside creating the decoder. params are those of nwc_session_create. errors: those of
 * nwc_session_make_plan, nwc_decoder_create and decoding. */
NWC_API nwc_status nwc_session_make_estimate(const nwc_model* model, const nwc_session_params* params,
                                             const nwc_error_detail* error, nwc_session_estimate* out_estimate);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* NWC_NWC_H_ */
