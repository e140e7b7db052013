// Errors as values: every fallible function returns Status or Result<T>.
// Data or environment wrong -> Status; programmer wrong -> assert. Nothing in runtime/ throws by design.
#pragma once

#include <cassert>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace nwc {

/// Stable numbers, in families (the C API's nwc_status has the same values):
/// 10s unrecognised or unsupported, 20s corrupt input, 40s argument, 60s memory or limit, 70s device, 80s I/O.
enum class StatusCode : uint32_t {
  kOk = 0,
  kUnrecognized = 10,        ///< not a file of this kind
  kUnsupported = 11,         ///< well formed, but needs a feature that this build lacks
  kUnsupportedVersion = 12,  ///< written by an incompatible version
  kCorrupt = 20,             ///< a field has an impossible value
  kTruncated = 21,           ///< the input ends too early
  kChecksum = 22,            ///< a CRC-32 or a final rANS state is wrong
  kInvalidArgument = 40,
  kNotFound = 41,
  kBufferTooSmall = 42,
  kCancelled = 43,  ///< the progress callback asked to stop
  kOutOfMemory = 60,
  kLimit = 61,   ///< a stated limit of the format or of the implementation is exceeded
  kBudget = 62,  ///< does not fit the caller's memory budget
  kDevice = 70,
  kNoDevice = 71,
  kDeviceLost = 72,
  kIo = 80,
  kInternal = 100,
};

/// Static, never null.
const char* status_code_name(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  /// What, where (field, tensor, byte offset) and what to do; empty when ok.
  const std::string& message() const { return message_; }

  /// The same error with "context: " in front of its message.
  Status with_context(const std::string& context) const {
    return ok() ? *this : Status(code_, context + ": " + message_);
  }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::in_place_index<0>, std::move(value)) {}
  Result(Status status) : value_(std::in_place_index<1>, std::move(status)) {
    assert(!std::get<1>(value_).ok());
  }

  bool ok() const { return value_.index() == 0; }
  Status status() const { return ok() ? Status() : std::get<1>(value_); }
  T& value() & {
    assert(ok());
    return *std::get_if<0>(&value_);
  }
  const T& value() const& {
    assert(ok());
    return *std::get_if<0>(&value_);
  }
  T&& value() && {
    assert(ok());
    return std::move(*std::get_if<0>(&value_));
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }

 private:
  std::variant<T, Status> value_;
};

// clang-format off
inline Status corrupt(std::string m) { return Status(StatusCode::kCorrupt, std::move(m)); }
inline Status truncated(std::string m) { return Status(StatusCode::kTruncated, std::move(m)); }
inline Status unsupported(std::string m) { return Status(StatusCode::kUnsupported, std::move(m)); }
inline Status invalid_argument(std::string m) { return Status(StatusCode::kInvalidArgument, std::move(m)); }
inline Status io_error(std::string m) { return Status(StatusCode::kIo, std::move(m)); }
inline Status limit_error(std::string m) { return Status(StatusCode::kLimit, std::move(m)); }
// clang-format on

inline Status as_status(Status s) { return s; }
template <typename T>
Status as_status(const Result<T>& r) {
  return r.status();
}

}  // namespace nwc

#define NWC_CONCAT_INNER(a, b) a##b
#define NWC_CONCAT(a, b) NWC_CONCAT_INNER(a, b)

/// Returns from the enclosing function when `expr` (Status or Result) is an error.
#define NWC_TRY(expr)                                                       \
  do {                                                                      \
    if (auto nwc_try_status = ::nwc::as_status(expr); !nwc_try_status.ok()) \
      return nwc_try_status;                                                \
  } while (0)

/// `lhs = value of expr`, or returns expr's error. lhs may declare a variable.
#define NWC_ASSIGN_OR_RETURN(lhs, expr) NWC_ASSIGN_OR_RETURN_IMPL(NWC_CONCAT(nwc_result_, __LINE__), lhs, expr)
#define NWC_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return tmp.status();             \
  lhs = std::move(tmp).value()
