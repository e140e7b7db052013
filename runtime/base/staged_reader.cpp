#include "runtime/base/staged_reader.h"

#include <algorithm>
#include <cstring>
#include <mutex>

namespace nwc {

Status StagedReader::read(uint64_t offset, MutableBytes out) const {
  if (num_parts_.load(std::memory_order_acquire) != 0) {
    const std::shared_lock lock(mutex_);
    for (const Part& part : parts_) {
      if (offset < part.offset || offset - part.offset > part.bytes.size()) continue;
      const size_t at = static_cast<size_t>(offset - part.offset);
      if (out.size() > part.bytes.size() - at) continue;
      if (!out.empty()) std::memcpy(out.data(), part.bytes.data() + at, out.size());
      return {};
    }
  }
  return source_->read(offset, out);
}

void StagedReader::hold(uint64_t offset, Bytes bytes) const {
  const std::unique_lock lock(mutex_);
  parts_.push_back({offset, bytes});
  num_parts_.store(parts_.size(), std::memory_order_release);
}

void StagedReader::release(Bytes bytes) const {
  const std::unique_lock lock(mutex_);
  std::erase_if(parts_, [&](const Part& part) { return part.bytes.data() == bytes.data(); });
  num_parts_.store(parts_.size(), std::memory_order_release);
}

}  // namespace nwc
