// Errors as values: every fallible function returns Status or Result<T>.
// Data or environment wrong -> Status; programmer wrong -> assert. Nothing in runtime/ throws by design.
#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "runtime/base/str_cat.h"

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

/// One pointer, null when ok: what happens at every step is small, what happens once is in status.cpp.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, const char* message);
  Status(StatusCode code, const std::string& message);
  Status(StatusCode code, std::span<const TextPiece> message);
  template <size_t N>
  Status(StatusCode code, const TextList<N>& message) : Status(code, std::span<const TextPiece>(message.pieces)) {}
  Status(const Status& other) : error_(other.ok() ? nullptr : copy(*other.error_)) {}
  // In line even where code is to be small: a step that went well has nothing to destroy, and the compiler sees it.
  [[gnu::always_inline]] Status(Status&& other) noexcept : error_(other.error_) { other.error_ = nullptr; }
  [[gnu::always_inline]] ~Status() {
    if (error_ != nullptr) destroy(error_);
  }
  Status& operator=(Status other) noexcept {
    std::swap(error_, other.error_);
    return *this;
  }

  bool ok() const { return error_ == nullptr; }
  StatusCode code() const { return ok() ? StatusCode::kOk : error_->code; }
  /// What, where (field, tensor, byte offset) and what to do; empty when ok.
  const std::string& message() const;

  /// The same error with "context: " in front of its message.
  Status with_context(const std::string& context) const { return with_context(str_cat(context)); }
  template <size_t N>
  Status with_context(const TextList<N>& context) const {
    return ok() ? Status() : in_context(context.pieces);
  }

 private:
  struct Error {
    StatusCode code;
    std::string message;
  };
  static Error* copy(const Error& error);
  static void destroy(Error* error);
  Status in_context(std::span<const TextPiece> context) const;

  Error* error_ = nullptr;
};

/// A value or an error.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status status) : status_(std::move(status)) { assert(!status_.ok()); }

  bool ok() const { return value_.has_value(); }
  const Status& status() const& { return status_; }
  Status status() && { return std::move(status_); }
  T& value() & {
    assert(ok());
    return *value_;
  }
  const T& value() const& {
    assert(ok());
    return *value_;
  }
  T&& value() && {
    assert(ok());
    return std::move(*value_);
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

// message: a string, or what str_cat gives.
// clang-format off
template <typename M> Status corrupt(const M& message) { return Status(StatusCode::kCorrupt, message); }
template <typename M> Status truncated(const M& message) { return Status(StatusCode::kTruncated, message); }
template <typename M> Status unsupported(const M& message) { return Status(StatusCode::kUnsupported, message); }
template <typename M> Status invalid_argument(const M& message) { return Status(StatusCode::kInvalidArgument, message); }
template <typename M> Status io_error(const M& message) { return Status(StatusCode::kIo, message); }
template <typename M> Status limit_error(const M& message) { return Status(StatusCode::kLimit, message); }
// clang-format on

[[gnu::always_inline]] inline Status as_status(Status&& s) { return std::move(s); }
inline Status as_status(const Status& s) { return s; }
template <typename T>
Status as_status(const Result<T>& r) {
  return r.status();
}
template <typename T>
Status as_status(Result<T>&& r) {
  return std::move(r).status();
}

}  // namespace nwc

#define NWC_CONCAT_INNER(a, b) a##b
#define NWC_CONCAT(a, b) NWC_CONCAT_INNER(a, b)

/// Returns from the enclosing function when `expr` (Status or Result) is an error.
#define NWC_TRY(expr)                                                                              \
  do {                                                                                             \
    if (auto nwc_try_status = ::nwc::as_status(expr); !nwc_try_status.ok()) return nwc_try_status; \
  } while (0)

/// `lhs = value of expr`, or returns expr's error. lhs may declare a variable.
#define NWC_ASSIGN_OR_RETURN(lhs, expr) NWC_ASSIGN_OR_RETURN_IMPL(NWC_CONCAT(nwc_result_, __LINE__), lhs, expr)
#define NWC_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).status();  \
  lhs = std::move(tmp).value()
