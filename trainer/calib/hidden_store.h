// A store for the hidden states between the blocks of a model. It keeps them in memory while they fit, and in files
// otherwise.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "trainer/nn/matrix.h"

namespace nwc {

/// The files are temporary. They are removed with the store; those that an interrupted run has left, by remove_left().
class HiddenStore {
 public:
  /// rank: whose states these are, of those that share the folder
  HiddenStore(std::string folder, uint32_t rank, uint64_t memory_bytes)
      : folder_(std::move(folder)), rank_(rank), left_bytes_(memory_bytes) {}
  ~HiddenStore();
  HiddenStore(const HiddenStore&) = delete;
  HiddenStore& operator=(const HiddenStore&) = delete;

  /// Removes what earlier stores have left in the folder, of all ranks.
  static void remove_left(const std::string& folder);

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

  const std::string folder_;
  const uint32_t rank_;
  uint64_t left_bytes_;
  std::vector<Entry> entries_;
};

}  // namespace nwc
