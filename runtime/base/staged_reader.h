// A reader of which parts lie in memory for a while: whoever knows what will be read soon reads it ahead.
#pragma once

#include <atomic>
#include <shared_mutex>

#include "runtime/base/reader.h"

namespace nwc {

/// Thread-safe, as every reader.
class StagedReader final : public Reader {
 public:
  explicit StagedReader(std::unique_ptr<Reader> source) : source_(std::move(source)) {}

  uint64_t size() const override { return source_->size(); }
  Status read(uint64_t offset, MutableBytes out) const override;
  const uint8_t* view(uint64_t offset, uint64_t size) const override { return source_->view(offset, size); }
  void will_read(uint64_t offset, uint64_t size) const override { source_->will_read(offset, size); }
  void forget(uint64_t offset, uint64_t size) const override { source_->forget(offset, size); }

  /// Where the bytes come from.
  const Reader& source() const { return *source_; }
  /// Reads inside [offset, offset + bytes.size()) are served from `bytes`, which are the caller's, until release().
  void hold(uint64_t offset, Bytes bytes) const;
  /// When this returns, nobody reads these bytes any more.
  void release(Bytes bytes) const;

 private:
  struct Part {
    uint64_t offset;
    Bytes bytes;
  };
  const std::unique_ptr<Reader> source_;
  mutable std::shared_mutex mutex_;
  mutable std::vector<Part> parts_;
  mutable std::atomic<size_t> num_parts_{0};  ///< most files have none, whose reads wait for no lock
};

}  // namespace nwc
