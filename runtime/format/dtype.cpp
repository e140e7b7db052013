#include "runtime/format/dtype.h"

namespace nwc {

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32: return "F32";
    case Dtype::kF16: return "F16";
    case Dtype::kBf16: return "BF16";
    case Dtype::kF64: return "F64";
    case Dtype::kI8: return "I8";
    case Dtype::kU8: return "U8";
    case Dtype::kI16: return "I16";
    case Dtype::kU16: return "U16";
    case Dtype::kI32: return "I32";
    case Dtype::kU32: return "U32";
    case Dtype::kI64: return "I64";
    case Dtype::kU64: return "U64";
    case Dtype::kBool: return "BOOL";
  }
  return "?";
}

}  // namespace nwc
