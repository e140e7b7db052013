// The objects behind the opaque handles of nwc.h, and the barrier around every call. The barrier lets no exception
// leave the library, and keeps every error text for the caller.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/log.h"
#include "runtime/base/str_cat.h"
#include "runtime/base/thread_pool.h"
#include "runtime/c_api/struct_sizes.h"
#include "runtime/decoder/decoder.h"
#include "runtime/format/nwc_file.h"
#include "runtime/include/nwc/nwc.h"

namespace nwc {
class Tokenizer;  // nwc_decode has none
}

namespace nwc::c_api {

/// Keeps one error text per thread, so that threads can share a handle: the failure of one does not overwrite the text
/// that another one reads. Texts of threads that have ended are removed when another thread fails, so that there are
/// never more than there are living threads.
class ErrorStore {
 public:
  void set(const char* message) noexcept;
  const char* get() const noexcept;
  /// The number of texts that are kept, for tests.
  size_t size() const;

 private:
  struct Entry {
    std::weak_ptr<const char> thread;  ///< expires when it ends
    std::string text;
  };
  mutable std::mutex mutex_;
  std::map<const char*, Entry> by_thread_;  ///< a map: entries do not move when others are added
};

void write_detail(const nwc_error_detail* detail, const char* text) noexcept;

/// Runs f(user) and returns its status. An exception becomes a status, too. The error text goes to `errors` and to
/// `detail`; either may be NULL.
nwc_status barrier(Status (*f)(void* user), void* user, ErrorStore* errors, const nwc_error_detail* detail) noexcept;

/// Makes a call on a handle: f(handle) -> Status.
template <typename Handle, typename F>
nwc_status call(Handle* handle, F&& f) noexcept {
  if (handle == nullptr) return NWC_STATUS_INVALID_ARGUMENT;
  const auto bound = [&] { return Status(f(*handle)); };
  return barrier([](void* user) { return (*static_cast<decltype(bound)*>(user))(); },
                 const_cast<void*>(static_cast<const void*>(&bound)), &handle->errors, nullptr);
}

/// Makes a call that creates a handle: f() -> Status.
template <typename F>
nwc_status make(const nwc_error_detail* detail, const F& f) noexcept {
  write_detail(detail, "");
  return barrier([](void* user) { return (*static_cast<const F*>(user))(); },
                 const_cast<void*>(static_cast<const void*>(&f)), nullptr, detail);
}

/// The sizes of a struct whose first member is struct_size: the one that this library knows, and the least that a
/// caller may state.
struct StructSize {
  uint32_t ours, first;
};
template <typename T>
inline constexpr StructSize kStructSize = {sizeof(T), FirstSize<T>::value};

/// Reads a struct of a caller, which may come from an older or newer header, to `out`. Fields that an older struct
/// lacks are 0, and so are all fields for NULL. errors: kInvalidArgument (struct_size), kUnsupported (a field beyond
/// ours is set)
Status read_struct_bytes(const void* in, StructSize size, const char* what, void* out);
template <typename T>
Status read_struct(const T* in, const char* what, T* out) {
  return read_struct_bytes(in, kStructSize<T>, what, out);
}

/// Fills the caller's struct as far as it goes, and sets the fields that only the caller knows to 0. struct_size stays.
Status write_struct_bytes(const void* value, StructSize size, const char* what, void* out);
template <typename T>
Status write_struct(const T& value, const char* what, T* out) {
  return write_struct_bytes(&value, kStructSize<T>, what, out);
}

Status null_argument(const char* name);

/// Copies a text without a final NUL to the caller's buffer; NULL: the caller wants to know its length only.
/// errors: kBufferTooSmall
Status give_text(std::string_view text, char* out_text, size_t capacity_bytes);

/// A run of tensors with the same group number.
struct Layer {
  uint32_t group = 0;
  uint32_t first_tensor = 0, num_tensors = 0;
};

/// A value of nwc_model_get_u64 and its siblings.
struct Property {
  std::string key;
  nwc_value_type type = NWC_VALUE_U64;
  uint64_t u64 = 0;
  double f64 = 0;
  const char* string = nullptr;  ///< static, or a text of the file's records, which live as long
};
/// In the order of nwc.h.
std::vector<Property> describe_properties(const NwcFile& file);

/// An open file and the data that calls derive from it. All handles made from it share this object.
class ModelState {
 public:
  explicit ModelState(std::unique_ptr<NwcFile> file);

  const NwcFile& file() const { return *file_; }
  const std::vector<Layer>& layers() const { return layers_; }
  uint32_t layer_of(uint32_t tensor) const { return layer_of_[tensor]; }
  const nwc_model_info& info() const { return info_; }
  const std::vector<Property>& properties() const { return properties_; }
  /// Built when first asked for. errors: kUnsupported (the file has none), kCorrupt
  Result<const Tokenizer*> tokenizer() const;

 private:
  std::unique_ptr<NwcFile> file_;
  std::vector<Layer> layers_;
  std::vector<uint32_t> layer_of_;
  nwc_model_info info_{};
  std::vector<Property> properties_;
  mutable std::mutex tokenizer_mutex_;
  mutable std::shared_ptr<const Tokenizer> tokenizer_;
};

/// Checks index, names it in the error.
Result<const TensorRecord*> find_tensor(const ModelState& state, uint32_t tensor);
Result<const Layer*> find_layer(const ModelState& state, uint32_t layer);
/// Bytes of a layer as nwc_decoder_decode_layer writes it; cannot overflow within the format's limits.
uint64_t decoded_layer_bytes(const ModelState& state, const Layer& layer, uint32_t element_bytes);

struct LogTarget {
  nwc_log_callback callback = nullptr;
  void* user = nullptr;
  /// The target must outlive the logger.
  Logger logger() const;
};

struct ProgressTarget {
  nwc_progress_callback callback = nullptr;
  void* user = nullptr;
  Progress progress() const;
};

/// The fields that nwc_decoder_params and nwc_session_params have in common.
struct BackendChoice {
  nwc_backend backend = NWC_BACKEND_AUTO;
  int32_t device_index = 0;
  std::string device_name;
  bool validation = false;
  std::string cache_directory;
  uint64_t window_bytes = kMaxWindowBytes;  ///< VulkanOptions::max_window_bytes
  const nwc_vulkan_objects* vulkan = nullptr;
};
/// validation and window_bytes are one kind's alone.
template <typename Params>
BackendChoice backend_of(const Params& p, bool validation, uint64_t window_bytes) {
  const auto text = [](const char* t) { return t == nullptr ? "" : t; };
  return {p.backend, p.device_index, text(p.device_name), validation, text(p.cache_directory), window_bytes, p.vulkan};
}
inline BackendChoice backend_of(const nwc_decoder_params& p) {
  return backend_of(p, p.validation != 0, kMaxWindowBytes);
}
inline BackendChoice backend_of(const nwc_session_params& p) {
  return backend_of(p, false, window_bytes_within(p.memory_budget_bytes));
}
/// errors: kInvalidArgument
Status check_backend(const BackendChoice& choice);
Result<std::unique_ptr<Decoder>> create_decoder(const NwcFile& file, Runner& runner, const BackendChoice& choice,
                                                const Logger& log);
/// errors: kInvalidArgument
Result<std::unique_ptr<Runner>> create_runner(const nwc_runner* runner, uint32_t num_threads);

}  // namespace nwc::c_api

struct nwc_model {
  std::shared_ptr<const nwc::c_api::ModelState> state;
  mutable nwc::c_api::ErrorStore errors;
};

// Members are destroyed last to first: the decoder goes before the runner and the file that it uses.
struct nwc_decoder {
  std::shared_ptr<const nwc::c_api::ModelState> state;
  nwc::c_api::LogTarget log;
  std::unique_ptr<nwc::Runner> runner;
  std::unique_ptr<nwc::Decoder> decoder;
  bool check_crc = true;
  mutable nwc::c_api::ErrorStore errors;
};
