// Memory of a session: aligned for SIMD, allocation failure is a Status, every byte is counted.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/status.h"

namespace nwc {

inline constexpr uint64_t kBufferAlignment = 64;
/// Buffers ask for pages of this size where they hold some: a stream of weights then misses no translation of
/// addresses, and the first touch of each page costs one fault instead of 512.
inline constexpr uint64_t kHugePage = 2u << 20;

/// Is all of a buffer written soon? Where only parts are, large pages would take memory for the rest.
enum class Filled : uint8_t { kWhole, kPartly };

/// Uninitialised bytes, aligned to 64, whose size is counted in *counter as long as they live.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  /// What `bytes` cost: rounded up to the alignment.
  static constexpr uint64_t rounded(uint64_t bytes) { return align_up(bytes, kBufferAlignment); }

  /// errors: kOutOfMemory, naming the buffer. 0 bytes: an empty buffer.
  Status allocate(uint64_t bytes, uint64_t* counter, const char* name, Filled filled = Filled::kWhole) {
    release();
    if (bytes == 0) return {};
    const uint64_t size = rounded(bytes);
    void* p =
        size < bytes || size > SIZE_MAX ? nullptr : ::operator new(static_cast<size_t>(size), kAlignment, std::nothrow);
    if (p == nullptr) {
      return Status(StatusCode::kOutOfMemory, str_cat("cannot allocate ", bytes, " bytes for ", name,
                                                      "; set a memory budget, or a smaller context"));
    }
#if defined(__linux__)
    // A hint, for the whole pages inside: what is not touched must not take memory, and a buffer that began with a page
    // would take one more of the heap. Where it is refused, all works as before.
    const uint64_t begin = align_up(reinterpret_cast<uintptr_t>(p), kHugePage);
    const uint64_t end = (reinterpret_cast<uintptr_t>(p) + size) / kHugePage * kHugePage;
    if (filled == Filled::kWhole && begin < end)
      static_cast<void>(madvise(reinterpret_cast<void*>(begin), static_cast<size_t>(end - begin), MADV_HUGEPAGE));
#endif
    data_ = static_cast<uint8_t*>(p);
    size_ = static_cast<size_t>(size);
    counter_ = counter;
    *counter_ += size;
    return {};
  }

  uint8_t* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kAlignment{kBufferAlignment};
  void release() {
    if (data_ == nullptr) return;
    ::operator delete(data_, kAlignment);
    *counter_ -= size_;
    data_ = nullptr;
    size_ = 0;
  }
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(counter_, other.counter_);
  }

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  uint64_t* counter_ = nullptr;
};

}  // namespace nwc
