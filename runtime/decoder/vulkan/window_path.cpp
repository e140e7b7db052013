#include "runtime/decoder/vulkan/window_path.h"

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

const char* consumer_name(Consumer consumer) {
  switch (consumer) {
    case Consumer::kNothing: return "nothing";
    case Consumer::kValues: return "values";
    case Consumer::kF32: return "f32";
    case Consumer::kF16: return "f16";
    case Consumer::kBf16: return "bf16";
    case Consumer::kProduct: return "product";
  }
  return "unknown";
}

}  // namespace

std::string RansVariant::name() const {
  return str_cat(ballot ? "ballot" : "shared", " to ", consumer_name(consumer),
                 consumer == Consumer::kProduct ? str_cat(" of ", batch) : std::string(),
                 storage16 ? " in 16-bit storage" : "",
                 shared_tables == 0 ? ", tables in a buffer"
                                    : std::string(str_cat(", ", shared_tables, " tables in shared memory")));
}

}  // namespace nwc
