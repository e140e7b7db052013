// Log lines go to a callback that the caller supplies; libraries never print.
#pragma once

#include <cstdint>
#include <string>

namespace nwc {

enum class LogLevel : int { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

struct Logger {
  void (*callback)(void* user, LogLevel level, const char* message) = nullptr;
  void* user = nullptr;

  void log(LogLevel level, const std::string& message) const {
    if (callback != nullptr) callback(user, level, message.c_str());
  }
};

/// Progress of long work: `done` of `total` units of work; return false to cancel (-> StatusCode::kCancelled).
struct Progress {
  bool (*callback)(void* user, uint64_t done, uint64_t total) = nullptr;
  void* user = nullptr;

  bool report(uint64_t done, uint64_t total) const { return callback == nullptr || callback(user, done, total); }
};

}  // namespace nwc
