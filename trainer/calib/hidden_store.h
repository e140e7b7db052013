// A store for the hidden states between the blocks of a model. It keeps them in memory while they fit, and in files
// otherwise.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// The files are temporary. They are removed with the store; files that an interrupted run has left are overwritten.
class HiddenStore {
 public:
  HiddenStore(std::string folder, uint64_t memory_bytes) : folder_(std::move(folder)), left_bytes_(memory_bytes) {}
  ~HiddenStore();
  HiddenStore(const HiddenStore&) = delete;
  HiddenStore& operator=(const HiddenStore&) = delete;

  /// Keeps the states [tokens][hidden] at the next boundary between blocks. The first call is boundary 0. errors: kIo
  Status push(const RowMatrix<float>& hidden);
  /// Returns the states of the last boundary that has not been taken yet. errors: kIo, kTruncated
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
