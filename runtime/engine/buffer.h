// Memory of a session: aligned for SIMD, allocation failure is a Status, every byte is counted.
#pragma once

#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"

namespace nwc {

inline constexpr uint64_t kBufferAlignment = 64;
/// Buffers ask for pages of this size where they hold some: a stream of weights then misses no translation of
/// addresses, and the first touch of each page costs one fault instead of 512.
inline constexpr uint64_t kHugePage = 2u << 20;

/// Is all of a buffer written soon? Where only parts are, large pages would take memory for the rest.
enum class Filled : uint8_t { kWhole, kPartly };

/// Functions that memory comes from; none: the heap. release gets the size that allocate was asked for.
struct Allocator {
  void* user = nullptr;
  void* (*allocate)(void* user, size_t bytes, size_t alignment) = nullptr;
  void (*release)(void* user, void* memory, size_t bytes) = nullptr;
};

/// Where the buffers of a session come from, and the bytes that they have together.
struct HostMemory {
  uint64_t bytes = 0;
  Allocator allocator;
};

/// Uninitialised bytes, aligned to 64, which are counted in *memory as long as they live.
/// `memory` outlives them.
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
  Status allocate(uint64_t bytes, HostMemory* memory, const char* name, Filled filled = Filled::kWhole) {
    release();
    if (bytes == 0) return {};
    const uint64_t size = rounded(bytes);
    const Allocator& own = memory->allocator;
    void* p = nullptr;
    if (size >= bytes && size <= SIZE_MAX) {
      p = own.allocate != nullptr ? own.allocate(own.user, static_cast<size_t>(size), kBufferAlignment)
                                  : ::operator new(static_cast<size_t>(size), kAlignment, std::nothrow);
    }
    if (p != nullptr && reinterpret_cast<uintptr_t>(p) % kBufferAlignment != 0) {
      own.release(own.user, p, static_cast<size_t>(size));
      return invalid_argument(str_cat("the allocator's memory is not aligned to ", kBufferAlignment, " bytes"));
    }
    if (p == nullptr) {
      return Status(StatusCode::kOutOfMemory, str_cat("cannot allocate ", bytes, " bytes for ", name,
                                                      "; set a memory budget, or a smaller context"));
    }
    // A hint, for the whole pages inside: what is not touched must not take memory, and a buffer that began with a page
    // would take one more of the heap. Where it is refused, all works as before.
    const uint64_t begin = align_up(reinterpret_cast<uintptr_t>(p), kHugePage);
    const uint64_t end = (reinterpret_cast<uintptr_t>(p) + size) / kHugePage * kHugePage;
    if (filled == Filled::kWhole && begin < end && own.allocate == nullptr)
      os::advise_large_pages(static_cast<uintptr_t>(begin), static_cast<uintptr_t>(end));
    data_ = static_cast<uint8_t*>(p);
    size_ = static_cast<size_t>(size);
    memory_ = memory;
    memory_->bytes += size;
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
    const Allocator& own = memory_->allocator;
    if (own.release != nullptr) {
      own.release(own.user, data_, size_);
    } else {
      ::operator delete(data_, kAlignment);
    }
    memory_->bytes -= size_;
    data_ = nullptr;
    size_ = 0;
  }
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(memory_, other.memory_);
  }

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  HostMemory* memory_ = nullptr;
};

}  // namespace nwc
