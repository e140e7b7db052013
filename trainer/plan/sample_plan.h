// Chooses the rows that stand for a model while its tables are fitted, and scales up what they show.
#pragma once

#include <vector>

#include "trainer/plan/surveyed_tensor.h"

namespace nwc {

/// Fills sample_rows and group. Tensors of one shape are a group. Where 32 rows of every tensor are more than `budget`
/// weights, some tensors of each group, spread evenly over the file, stand for the others, which have no samples.
/// Where they are fewer than 4 Mi weights, there are more rows of each.
void choose_samples(std::vector<SurveyedTensor>* tensors, uint64_t budget);

/// A sum over all tensors of a quantity that only the samples show. In a group it is in proportion to a size that is
/// known of all tensors; a group without any sample has the proportion of all others.
class ScaledSum {
 public:
  /// A tensor of this size; value: what its sample shows, if it has one.
  void add(const SurveyedTensor& t, double size, double value);
  double total() const;
  /// What a sampled tensor of this group stands for, over its own size: exactly 1 where all are sampled.
  double scale(uint32_t group) const;

 private:
  struct Group {
    double all = 0, sampled = 0, value = 0;
  };
  std::vector<Group> groups_;
};

}  // namespace nwc
