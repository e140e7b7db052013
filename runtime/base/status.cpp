#include "runtime/base/status.h"

#include <cstddef>
#include <new>

namespace nwc {

const char* status_code_name(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "ok";
    case StatusCode::kUnrecognized: return "unrecognised file";
    case StatusCode::kUnsupported: return "unsupported";
    case StatusCode::kUnsupportedVersion: return "unsupported version";
    case StatusCode::kCorrupt: return "corrupt";
    case StatusCode::kTruncated: return "truncated";
    case StatusCode::kChecksum: return "checksum mismatch";
    case StatusCode::kInvalidArgument: return "invalid argument";
    case StatusCode::kNotFound: return "not found";
    case StatusCode::kBufferTooSmall: return "buffer too small";
    case StatusCode::kCancelled: return "cancelled";
    case StatusCode::kOutOfMemory: return "out of memory";
    case StatusCode::kLimit: return "limit exceeded";
    case StatusCode::kBudget: return "memory budget exceeded";
    case StatusCode::kDevice: return "device error";
    case StatusCode::kNoDevice: return "no device";
    case StatusCode::kDeviceLost: return "device lost";
    case StatusCode::kIo: return "input/output error";
    case StatusCode::kInternal: return "internal error";
  }
  return "unknown status";
}

Status::Status(StatusCode code, std::span<const TextPiece> message)
    : error_(code == StatusCode::kOk ? nullptr : new Error{code, join_pieces(message)}) {}
Status::Status(StatusCode code, const std::string& message) : Status(code, str_cat(message)) {}
Status::Status(StatusCode code, const char* message) : Status(code, str_cat(message)) {}

const std::string& Status::message() const {
  // Never destroyed: that would be code that runs by itself.
  alignas(std::string) static std::byte memory[sizeof(std::string)];
  static const std::string* const empty = new (memory) std::string;
  return ok() ? *empty : error_->message;
}

Status Status::in_context(std::span<const TextPiece> context) const {
  return Status(error_->code, str_cat(join_pieces(context), ": ", error_->message));
}

Status::Error* Status::copy(const Error& error) { return new Error(error); }
void Status::destroy(Error* error) { delete error; }

}  // namespace nwc
