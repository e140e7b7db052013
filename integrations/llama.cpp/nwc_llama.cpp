// Why not llama_model_init_from_user: without a file llama.cpp cannot know which of an architecture's optional tensors
// a model has, and creates them all (biases, scales, norms of queries, an output matrix beside tied embeddings). A
// stream through llama_model_load_from_file_ptr goes the way of every GGUF file.
#include "integrations/llama.cpp/nwc_llama.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "integrations/llama.cpp/gguf_stream.h"
#include "integrations/llama.cpp/llama_library.h"

namespace nwc {
namespace {

thread_local std::string last_error, last_notes;

/// A GgufStream as a FILE.
struct Cookie {
  explicit Cookie(GgufStream& s) : stream(s) {}

  GgufStream& stream;
  uint64_t at = 0;
  bool jumped = false;  ///< the last call was a seek
  Status status;        ///< the first error; the loader would only know that reading has failed
};

constexpr size_t kBufferBytes = 1u << 18;  ///< glibc reads through a buffer, however much is asked for

ssize_t read_cookie(void* user, char* out, size_t size) {
  auto& cookie = *static_cast<Cookie*>(user);
  // To seek, glibc goes to a multiple of the buffer's size and reads from there; where it gets nothing, it goes on by
  // seeking. Tensors are read from their beginning: what lies before, in another one, is not worth decoding.
  const bool ahead = std::exchange(cookie.jumped, false) && !cookie.stream.ready(cookie.at);
  if (ahead || cookie.at == cookie.stream.size()) return 0;
  const uint64_t count = std::min<uint64_t>(size, cookie.stream.part_end(cookie.at) - cookie.at);
  Status status = cookie.stream.read(cookie.at, {reinterpret_cast<uint8_t*>(out), count});
  if (!status.ok()) {
    if (cookie.status.ok()) cookie.status = std::move(status);
    errno = EIO;
    return -1;
  }
  cookie.at += count;
  return static_cast<ssize_t>(count);
}

int seek_cookie(void* user, off64_t* offset, int whence) {
  auto& cookie = *static_cast<Cookie*>(user);
  const auto size = static_cast<int64_t>(cookie.stream.size());
  const int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? static_cast<int64_t>(cookie.at) : size;
  if (*offset < -base || *offset > size - base) {
    errno = EINVAL;
    return -1;
  }
  *offset += base;
  cookie.at = static_cast<uint64_t>(*offset);
  cookie.jumped = true;
  return 0;
}

/// What llama.cpp says is wrong goes to its log. While this lives, the log comes by here on its way.
class LogTap {
 public:
  explicit LogTap(const LlamaLibrary& library) : library_(library), usable_(library.log_get && library.log_set) {
    if (!usable_) return;
    library_.log_get(&before_, &before_user_);
    library_.log_set(pass, this);
  }
  LogTap(const LogTap&) = delete;
  LogTap& operator=(const LogTap&) = delete;
  ~LogTap() {
    if (usable_) library_.log_set(before_, before_user_);
  }
  const std::string& error() const { return error_; }

 private:
  static void pass(ggml_log_level level, const char* text, void* user) {
    auto& tap = *static_cast<LogTap*>(user);
    {
      const std::lock_guard lock(tap.mutex_);
      if (level == GGML_LOG_LEVEL_ERROR && tap.error_.empty()) {
        tap.error_ = text;
        while (!tap.error_.empty() && tap.error_.back() == '\n') tap.error_.pop_back();
      }
    }
    if (tap.before_ != nullptr) tap.before_(level, text, tap.before_user_);
  }

  const LlamaLibrary& library_;
  bool usable_;
  ggml_log_callback before_ = nullptr;
  void* before_user_ = nullptr;
  std::mutex mutex_;
  std::string error_;
};

std::mutex load_mutex;  ///< the log is the process's

nwc_llama_options known_options(const nwc_llama_options* options) {
  nwc_llama_options known;
  nwc_llama_options_init(&known);
  if (options != nullptr) std::memcpy(&known, options, std::min<size_t>(options->struct_size, sizeof known));
  return known;
}

Result<llama_model*> load(const char* path, const nwc_llama_options* given, const llama_model_params* params) {
  if (path == nullptr) return invalid_argument("path is NULL");
  if (given != nullptr && given->struct_size < sizeof(uint32_t))
    return invalid_argument("options were not set by nwc_llama_options_init");
  const nwc_llama_options options = known_options(given);
  const std::string name = options.type == nullptr ? "f16" : options.type;
  const GgufFileType* type = find_gguf_file_type(name);
  if (type == nullptr)
    return invalid_argument("no type \"" + name + "\"; choose f16, bf16, f32, q8_0, q6_k, q5_k_m or q4_k_m");
  NWC_ASSIGN_OR_RETURN(const LlamaLibrary library, find_llama_library(options.library));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<GgufStream> stream, GgufStream::open(path, type, options.threads));
  stream->begin();  // llama.cpp reads the vocabulary before any tensor, on one thread
  Cookie cookie(*stream);
  FILE* file = fopencookie(&cookie, "rb", {read_cookie, nullptr, seek_cookie, nullptr});
  if (file == nullptr) return Status(StatusCode::kOutOfMemory, "no memory for a stream");
  std::vector<char> buffer(kBufferBytes);  // outlives the file
  setvbuf(file, buffer.data(), _IOFBF, buffer.size());
  RoomyModelParams roomy = library.default_params();
  if (params != nullptr) roomy.params = *params;
  roomy.params.load_mode = LLAMA_LOAD_MODE_NONE;
  llama_model* model = nullptr;
  std::string error;
  {
    const std::lock_guard lock(load_mutex);
    const LogTap tap(library);
    model = library.load_from_file_ptr(file, roomy);
    error = tap.error();
  }
  std::fclose(file);
  if (model == nullptr) {
    NWC_TRY(cookie.status);
    return unsupported(error.empty() ? "llama.cpp has not loaded the model, or loading was cancelled"
                                     : "llama.cpp (ggml " + library.version + ") says: " + error);
  }
  for (const std::string& note : stream->notes()) last_notes += note + "\n";
  return model;
}

}  // namespace
}  // namespace nwc

void nwc_llama_options_init(nwc_llama_options* options) {
  *options = {};
  options->struct_size = sizeof *options;
}

llama_model* nwc_llama_load(const char* path, const nwc_llama_options* options, const llama_model_params* params) try {
  nwc::last_error.clear();
  nwc::last_notes.clear();
  nwc::Result<llama_model*> model = nwc::load(path, options, params);
  if (model.ok()) return *model;
  nwc::last_error = model.status().with_context(path == nullptr ? "NULL" : path).message();
  return nullptr;
} catch (const std::bad_alloc&) {
  nwc::last_error = "out of memory";
  return nullptr;
} catch (const std::exception& error) {
  nwc::last_error = error.what();
  return nullptr;
}

const char* nwc_llama_error(void) { return nwc::last_error.c_str(); }
const char* nwc_llama_notes(void) { return nwc::last_notes.c_str(); }

const char* nwc_llama_version(void) {
  static const std::string version =
      std::string("nwc ") + NWC_VERSION + ", built for llama.cpp with ggml " + nwc::built_for_ggml();
  return version.c_str();
}
