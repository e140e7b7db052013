// Codes the tensors of one pass, each at its owner, and brings them to the rank that writes the file.
#pragma once

#include <map>
#include <vector>

#include "trainer/parallel/ranks.h"
#include "trainer/plan/rate_control.h"
#include "trainer/search/tensor_encode.h"

namespace nwc {

/// Rank 0 takes the tensors in the file's order: it codes its own and waits for those of others, who code theirs in
/// that order, too. What it refers to outlives it.
class PartCoder {
 public:
  /// weights: what is coded. ready: by their numbers there, those that are coded already; they are taken from it.
  /// ranks: those that code; plan and rate were surveyed with them, or the only one is rank 0
  PartCoder(const ModelSource& weights, std::map<size_t, CodedPart> ready, const std::vector<PlannedTensor>& plan,
            RateModel* rate, const FittedCodec& fitted, double log_step, Ranks& ranks, Runner& runner);

  /// On rank 0: plan[index], which is coded. To be called in order. errors: those of RateModel::factors, of the source
  /// and of Ranks
  Result<CodedPart> take(size_t index);
  /// On the other ranks: codes their tensors and sends them to rank 0. errors: the same, kCancelled
  Status send_all(const Progress& progress);

 private:
  /// Codes the next tensors of this rank, so many as keep all threads busy.
  Status code_next();
  size_t batch_size() const;

  const ModelSource& weights_;
  const std::vector<PlannedTensor>& plan_;
  RateModel& rate_;
  const FittedCodec& fitted_;
  const double log_step_;
  Ranks& ranks_;
  Runner& runner_;
  const EncodeTables tables_;
  const TableCosts costs_;
  std::vector<size_t> own_;  ///< places in the plan
  size_t next_ = 0;          ///< in own_
  std::map<size_t, CodedPart> coded_;
};

}  // namespace nwc
