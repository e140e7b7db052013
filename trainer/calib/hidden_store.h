// The hidden states between the blocks of a model, in memory as long as they fit, else in files.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// Files are scratch: removed with the store, and overwritten where an interrupted run left them.
class HiddenStore {
 public:
  HiddenStore(std::string folder, uint64_t memory_bytes) : folder_(std::move(folder)), left_bytes_(memory_bytes) {}
  ~HiddenStore();
  HiddenStore(const HiddenStore&) = delete;
  HiddenStore& operator=(const HiddenStore&) = delete;

  /// Keeps the next boundary's states, [tokens][hidden]; the first call is boundary 0. errors: kIo
  Status push(const RowMatrix<float>& hidden);
  /// Takes the last boundary back that has not been taken yet. errors: kIo, kTruncated
  Status pop(RowMatrix<float>* hidden);

 private:
  struct Entry {
    RowMatrix<float> values;  ///< empty: in the file
    Eigen::Index rows = 0, cols = 0;
  };
  std::string path(size_t boundary) const;

  std::string folder_;
  uint64_t left_bytes_;
  std::vector<Entry> entries_;
};

}  // namespace nwc
