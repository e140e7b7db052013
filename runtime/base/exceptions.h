// Only this file and its source know of exceptions. Nothing in runtime/ throws by design, but the standard library
// throws where memory or threads run out. Builds without exceptions (NWC_EXCEPTIONS=OFF) end the process there.
#pragma once

#include <exception>
#include <mutex>
#include <utility>

#include "runtime/base/status.h"

namespace nwc {

/// An exception as an error; its text lives as long as the exception.
struct ExceptionText {
  StatusCode code;
  const char* text;
};
/// The error for the exception that is being handled. Allocates nothing.
ExceptionText current_exception_text() noexcept;

/// Does what the standard library does where memory runs out: it throws std::bad_alloc, or ends the process in builds
/// without exceptions.
[[noreturn]] void out_of_memory();

/// Runs f(). If it throws, failed(StatusCode, const char* text) is called and the answer is false.
template <typename F, typename Failed>
bool guarded(F&& f, Failed&& failed) noexcept {
#ifdef __cpp_exceptions
  try {
    f();
  } catch (...) {
    const ExceptionText error = current_exception_text();
    failed(error.code, error.text);
    return false;
  }
#else
  static_cast<void>(failed);
  f();
#endif
  return true;
}

/// Carries an exception of a task from the thread that ran it to the thread that waits for it.
class CarriedException {
 public:
  /// Runs f(); false if it threw. The first exception is kept. Any number of threads at once.
  template <typename F>
  bool run(F&& f) noexcept {
#ifdef __cpp_exceptions
    try {
      f();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (error_ == nullptr) error_ = std::current_exception();
      return false;
    }
#else
    f();
#endif
    return true;
  }
  /// Throws what was kept, and forgets it. When no thread is in run() any more.
  void rethrow() {
#ifdef __cpp_exceptions
    if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
#endif
  }

#ifdef __cpp_exceptions
 private:
  std::mutex mutex_;
  std::exception_ptr error_;
#endif
};

}  // namespace nwc
