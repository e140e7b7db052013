// Version, status names, error texts and the adapters between C callbacks and the runtime's interfaces.
#include <cstdio>

#include "runtime/base/exceptions.h"
#include "runtime/base/str_cat.h"
#include "runtime/c_api/handles.h"

namespace nwc::c_api {
namespace {

// The numbers are a promise of the header.
#define NWC_SAME(c, cpp) static_assert(NWC_STATUS_##c == static_cast<uint32_t>(StatusCode::cpp))
NWC_SAME(OK, kOk);
NWC_SAME(UNRECOGNIZED, kUnrecognized);
NWC_SAME(UNSUPPORTED, kUnsupported);
NWC_SAME(UNSUPPORTED_VERSION, kUnsupportedVersion);
NWC_SAME(CORRUPT, kCorrupt);
NWC_SAME(TRUNCATED, kTruncated);
NWC_SAME(CHECKSUM, kChecksum);
NWC_SAME(INVALID_ARGUMENT, kInvalidArgument);
NWC_SAME(NOT_FOUND, kNotFound);
NWC_SAME(BUFFER_TOO_SMALL, kBufferTooSmall);
NWC_SAME(CANCELLED, kCancelled);
NWC_SAME(OUT_OF_MEMORY, kOutOfMemory);
NWC_SAME(LIMIT, kLimit);
NWC_SAME(BUDGET, kBudget);
NWC_SAME(DEVICE, kDevice);
NWC_SAME(NO_DEVICE, kNoDevice);
NWC_SAME(DEVICE_LOST, kDeviceLost);
NWC_SAME(IO, kIo);
NWC_SAME(INTERNAL, kInternal);
#undef NWC_SAME

/// The caller's threads behind the runtime's interface. An exception (out of memory) must not cross the caller's
/// frames: it is carried around them.
class CallerRunner : public Runner {
 public:
  explicit CallerRunner(const nwc_runner& runner) : runner_(runner) {}
  uint32_t num_workers() const override { return runner_.num_workers; }

  void run(uint32_t count, Task task, void* user) override {
    if (count == 0) return;
    std::lock_guard serial(serial_);
    Call call{task, user, {}};
    runner_.run(
        runner_.user, count,
        [](void* data, uint32_t index, uint32_t worker) {
          Call& c = *static_cast<Call*>(data);
          c.error.run([&] { c.task(c.user, index, worker); });
        },
        &call);
    call.error.rethrow();
  }

 private:
  struct Call {
    Task task;
    void* user;
    CarriedException error;
  };
  nwc_runner runner_;
  std::mutex serial_;
};

}  // namespace

namespace {

/// Lives as long as the calling thread.
const std::shared_ptr<const char>& this_thread() {
  thread_local const std::shared_ptr<const char> mark = std::make_shared<const char>('\0');
  return mark;
}

}  // namespace

void ErrorStore::set(const char* message) noexcept {
  const auto keep = [&] {
    const std::shared_ptr<const char>& thread = this_thread();
    std::lock_guard lock(mutex_);
    std::erase_if(by_thread_, [](const auto& entry) { return entry.second.thread.expired(); });
    by_thread_[thread.get()] = {thread, message};
  };
  // Without memory for the text the status alone has to do.
  guarded(keep, [](StatusCode, const char*) {});
}

const char* ErrorStore::get() const noexcept {
  const char* text = "";
  const auto find = [&] {
    const std::shared_ptr<const char>& thread = this_thread();
    std::lock_guard lock(mutex_);
    // An entry keeps the address of its thread's mark from being used again.
    const auto it = by_thread_.find(thread.get());
    if (it != by_thread_.end()) text = it->second.text.c_str();
  };
  guarded(find, [](StatusCode, const char*) {});
  return text;
}

size_t ErrorStore::size() const {
  std::lock_guard lock(mutex_);
  return by_thread_.size();
}

void write_detail(const nwc_error_detail* detail, const char* text) noexcept {
  if (detail == nullptr || detail->text == nullptr || detail->size_bytes == 0) return;
  const size_t length = std::min(std::strlen(text), detail->size_bytes - 1);
  std::memcpy(detail->text, text, length);
  detail->text[length] = '\0';
}

nwc_status barrier(Status (*f)(void* user), void* user, ErrorStore* errors, const nwc_error_detail* detail) noexcept {
  StatusCode code = StatusCode::kOk;
  const auto report = [&](StatusCode why, const char* text) {
    code = why;
    if (errors != nullptr) errors->set(text);
    write_detail(detail, text);
  };
  const auto run = [&] {
    const Status status = f(user);
    if (!status.ok()) report(status.code(), status.message().c_str());
  };
  guarded(run, report);
  return static_cast<nwc_status>(code);
}

namespace {

// No struct of nwc.h is anywhere near this size: a larger struct_size was not initialised.
constexpr uint32_t kMaxStructBytes = 1u << 16;

/// What the caller's struct states, if it can be that.
Result<uint32_t> struct_size(const void* data, StructSize size, const char* what) {
  uint32_t stated;
  std::memcpy(&stated, data, sizeof stated);
  if (stated >= size.first && stated <= kMaxStructBytes && stated % sizeof stated == 0) return stated;
  return invalid_argument(
      str_cat(what, ".struct_size is ", stated, ", expected ", size.ours, ": call ", what, "_init first"));
}

}  // namespace

Status read_struct_bytes(const void* in, StructSize size, const char* what, void* out) {
  std::memset(out, 0, size.ours);
  if (in != nullptr) {
    NWC_ASSIGN_OR_RETURN(const uint32_t stated, struct_size(in, size, what));
    const auto* bytes = static_cast<const uint8_t*>(in);
    const uint32_t common = std::min(stated, size.ours);
    if (std::any_of(bytes + common, bytes + stated, [](uint8_t b) { return b != 0; }))
      return unsupported(str_cat(what, " sets a field that this version of the library does not know"));
    std::memcpy(out, in, common);
  }
  std::memcpy(out, &size.ours, sizeof size.ours);
  return {};
}

Status write_struct_bytes(const void* value, StructSize size, const char* what, void* out) {
  if (out == nullptr) return invalid_argument(str_cat(what, ": the result pointer is NULL"));
  NWC_ASSIGN_OR_RETURN(const uint32_t stated, struct_size(out, size, what));
  const uint32_t common = std::min(stated, size.ours);
  std::memcpy(out, value, common);
  std::memset(static_cast<uint8_t*>(out) + common, 0, stated - common);
  std::memcpy(out, &stated, sizeof stated);
  return {};
}

Status null_argument(const char* name) { return invalid_argument(str_cat(name, " is NULL")); }

Status give_text(std::string_view text, char* out_text, size_t capacity_bytes) {
  if (out_text == nullptr) return {};
  if (capacity_bytes < text.size())
    return Status(StatusCode::kBufferTooSmall,
                  str_cat("the text has ", text.size(), " bytes, the buffer holds ", capacity_bytes));
  // NOLINTNEXTLINE(bugprone-not-null-terminated-result): the text has no final NUL, as nwc.h says.
  if (!text.empty()) std::memcpy(out_text, text.data(), text.size());
  return {};
}

Logger LogTarget::logger() const {
  if (callback == nullptr) return {};
  return {[](void* self, LogLevel level, const char* message) {
            const auto* target = static_cast<const LogTarget*>(self);
            target->callback(target->user, static_cast<nwc_log_level>(level), message);
          },
          const_cast<LogTarget*>(this)};
}

Progress ProgressTarget::progress() const {
  if (callback == nullptr) return {};
  return {[](void* self, uint64_t done, uint64_t total) {
            const auto* target = static_cast<const ProgressTarget*>(self);
            return target->callback(target->user, done, total) == 0;
          },
          const_cast<ProgressTarget*>(this)};
}

Result<std::unique_ptr<Runner>> create_runner(const nwc_runner* runner, uint32_t num_threads) {
  if (runner == nullptr) return make_thread_pool(num_threads);
  if (runner->run == nullptr) return null_argument("runner.run");
  if (runner->num_workers == 0) return invalid_argument("runner.num_workers is 0, at least 1 is needed");
  return std::unique_ptr<Runner>(std::make_unique<CallerRunner>(*runner));
}

}  // namespace nwc::c_api

#define NWC_STRINGIFY_INNER(x) #x
#define NWC_STRINGIFY(x) NWC_STRINGIFY_INNER(x)

const char* nwc_version_string(void) {
  return NWC_STRINGIFY(NWC_VERSION_MAJOR) "." NWC_STRINGIFY(NWC_VERSION_MINOR) "." NWC_STRINGIFY(NWC_VERSION_PATCH);
}

uint32_t nwc_version_number(void) {
  return NWC_VERSION_MAJOR * 1000000u + NWC_VERSION_MINOR * 1000u + NWC_VERSION_PATCH;
}

uint32_t nwc_format_version(void) { return nwc::kVersionMajor * 1000u + nwc::kVersionMinor; }

const char* nwc_status_string(nwc_status status) {
  return nwc::status_code_name(static_cast<nwc::StatusCode>(static_cast<uint32_t>(status)));
}
