// Counts what operator new has handed out, now and at most: for tests of what plans promise. Include it in one file of
// a program; it replaces the global operators.
#pragma once

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace nwc::test {

inline std::atomic<uint64_t> heap_now{0}, heap_most{0};

inline void* watched(void* p) {
  if (p == nullptr) return nullptr;
  const uint64_t now = heap_now += malloc_usable_size(p);
  for (uint64_t most = heap_most; now > most && !heap_most.compare_exchange_weak(most, now);) {
  }
  return p;
}
inline void unwatched(void* p) {
  if (p != nullptr) heap_now -= malloc_usable_size(p);
  std::free(p);
}

/// The most that lives at a time during f(), beyond what lived before.
template <typename F>
uint64_t heap_growth(F&& f) {
  const uint64_t before = heap_now;
  heap_most = before;
  f();
  return heap_most - before;
}

}  // namespace nwc::test

void* operator new(size_t size) {
  void* const p = nwc::test::watched(std::malloc(size));
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void* operator new(size_t size, std::align_val_t alignment) {
  void* const p = nwc::test::watched(
      std::aligned_alloc(static_cast<size_t>(alignment),
                         (size + static_cast<size_t>(alignment) - 1) & ~(static_cast<size_t>(alignment) - 1)));
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return nwc::test::watched(
      std::aligned_alloc(static_cast<size_t>(alignment),
                         (size + static_cast<size_t>(alignment) - 1) & ~(static_cast<size_t>(alignment) - 1)));
}
void operator delete(void* p) noexcept { nwc::test::unwatched(p); }
void operator delete(void* p, size_t) noexcept { nwc::test::unwatched(p); }
void operator delete(void* p, std::align_val_t) noexcept { nwc::test::unwatched(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { nwc::test::unwatched(p); }
