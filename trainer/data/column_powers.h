// How large the inputs of a model's matrices are, from an importance matrix: errors in columns of large inputs cost
// more.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/data/imatrix.h"
#include "trainer/data/model_source.h"

namespace nwc {

/// Immutable, thread-safe.
class ColumnPowers {
 public:
  /// Finds the entry of each of the model's matrices.
  /// errors: kInvalidArgument (an entry does not have a tensor's width or number of experts: the message names both;
  ///         no entry is one of the model's: it says which names there are), kCorrupt, kIo
  static Result<ColumnPowers> match(Imatrix imatrix, const ModelSource& source);

  /// Is anything known of the tensor's inputs? tensor: index in the source.
  bool covers(size_t tensor) const { return places_[tensor].entry != nullptr; }
  /// Is the tensor the model's embedding, or what predicts tokens? By its name.
  bool is_head(size_t tensor) const { return is_head_[tensor]; }
  /// Mean squares of the inputs of a tensor that is covered, [its last dimension]; not negative, and not all 0. Of
  /// experts in one tensor, over the tokens of all.
  Result<std::vector<double>> load(size_t tensor) const;

  const Imatrix& imatrix() const { return *imatrix_; }
  size_t covered() const;
  /// Names of the matrices of which nothing is known.
  const std::vector<std::string>& uncovered() const { return uncovered_; }
  /// Number of entries that are none of the model's.
  size_t unused_entries() const { return unused_; }

 private:
  /// Where the inputs of a tensor are: of `parts` matrices from number `first` on.
  struct Place {
    const ImatrixEntry* entry = nullptr;
    uint64_t columns = 0, first = 0, parts = 1;
  };
  Result<Place> place_of(const ModelSource& source, size_t tensor) const;
  Result<std::vector<double>> load(const Place& place) const;

  std::unique_ptr<const Imatrix> imatrix_;
  std::vector<Place> places_;
  std::vector<bool> is_head_;
  std::vector<std::string> uncovered_;
  size_t unused_ = 0;
};

}  // namespace nwc
