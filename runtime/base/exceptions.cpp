#include "runtime/base/exceptions.h"

#include <new>
#include <stdexcept>

namespace nwc {

void out_of_memory() {
#ifdef __cpp_exceptions
  throw std::bad_alloc();
#else
  std::terminate();
#endif
}

ExceptionText current_exception_text() noexcept {
#ifdef __cpp_exceptions
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return {StatusCode::kOutOfMemory, "out of memory"};
  } catch (const std::length_error&) {
    return {StatusCode::kOutOfMemory, "out of memory: a size beyond what this machine can address"};
  } catch (const std::exception& e) {
    return {StatusCode::kInternal, e.what()};
  } catch (...) {
  }
#endif
  return {StatusCode::kInternal, "unknown exception"};
}

}  // namespace nwc
