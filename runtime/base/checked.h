// Checked size arithmetic: sizes that come from a file are computed with these before anything is allocated.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nwc {

/// Bytes that a program can hold together. With 32-bit addresses that bounds all sizes which become size_t: those of
/// sections (Container::load), tensors (NwcFile::open) and sessions (plan_session).
inline constexpr uint64_t kMostBytesOf32Bits = (uint64_t{1} << 31) - 1;
constexpr bool addressable(uint64_t bytes) { return sizeof(size_t) >= 8 || bytes <= kMostBytesOf32Bits; }

/// false on overflow; *out is then unspecified.
[[nodiscard]] inline bool checked_add(uint64_t a, uint64_t b, uint64_t* out) { return !__builtin_add_overflow(a, b, out); }
[[nodiscard]] inline bool checked_mul(uint64_t a, uint64_t b, uint64_t* out) { return !__builtin_mul_overflow(a, b, out); }

constexpr uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
/// alignment is a power of two; the caller has bounded value.
constexpr uint64_t align_up(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

}  // namespace nwc
