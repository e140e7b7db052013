#include "runtime/base/status.h"

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

}  // namespace nwc
