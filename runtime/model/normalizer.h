// What a tokenizer does to text before it splits it: the steps of a TOKENIZER record, in order.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/tokenizer_record.h"
#include "runtime/model/charsmap.h"

namespace nwc {

/// Immutable, thread-safe.
class Normalizer {
 public:
  /// The record must outlive the normalizer. Errors: kCorrupt (the charsmap)
  static Result<Normalizer> create(const TokenizerRecord& record);

  bool empty() const { return steps_->empty(); }
  /// Errors: kLimit (a step makes more than 16 times as much of the text, and 64 KiB: no tokenizer does that)
  Result<std::string> apply(std::string_view text) const;

 private:
  explicit Normalizer(const std::vector<NormalizerStep>* steps) : steps_(steps) {}
  Result<std::string> apply_step(const NormalizerStep& step, std::string text, size_t limit) const;

  const std::vector<NormalizerStep>* steps_;
  std::optional<Charsmap> charsmap_;
};

}  // namespace nwc
