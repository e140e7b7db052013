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
/// Large buffers ask for pages of this size: a stream of weights then misses no translation of addresses.
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
    const bool large = size >= 2 * kHugePage && filled == Filled::kWhole;
    alignment_ = std::align_val_t{static_cast<size_t>(large ? kHugePage : kBufferAlignment)};
    void* p =
        size < bytes || size > SIZE_MAX ? nullptr : ::operator new(static_cast<size_t>(size), alignment_, std::nothrow);
    if (p == nullptr) {
      return Status(StatusCode::kOutOfMemory, str_cat("cannot allocate ", bytes, " bytes for ", name,
                                                      "; set a memory budget, or a smaller context"));
    }
#if defined(__linux__)
    // A hint, for whole pages only: what is not touched must not take memory. Where it is refused, all works as before.
    if (large) static_cast<void>(madvise(p, static_cast<size_t>(size / kHugePage * kHugePage), MADV_HUGEPAGE));
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
  void release() {
    if (data_ == nullptr) return;
    ::operator delete(data_, alignment_);
    *counter_ -= size_;
    data_ = nullptr;
    size_ = 0;
  }
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(alignment_, other.alignment_);
    std::swap(counter_, other.counter_);
  }

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  std::align_val_t alignment_{kBufferAlignment};
  uint64_t* counter_ = nullptr;
};

}  // namespace nwc
