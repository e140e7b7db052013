// Measures zero-shot multiple choice: the share of tasks in which the model finds the right continuation likeliest.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/session.h"

namespace nwc {

struct ChoiceItem {
  std::string context;
  std::vector<std::string> choices;
  uint32_t answer = 0;
};

/// One JSON object a line, {"context": "...", "choices": ["...", ...], "answer": i}; other keys are ignored, so are
/// empty lines. errors: kCorrupt, kLimit (a line over 1 MiB, more than 64 choices); all name the line
Result<std::vector<ChoiceItem>> parse_choice_items(std::string_view jsonl);

struct ChoiceResult {
  uint64_t items = 0;
  double accuracy = 0, accuracy_se = 0;                        ///< by the sum of the continuation's log-likelihoods
  double accuracy_normalized = 0, accuracy_normalized_se = 0;  ///< by that sum per byte of the continuation
  std::vector<uint32_t> chosen, chosen_normalized;             ///< per item; the lowest index among equals
};

/// Text to tokens, special tokens (BOS) included where the model wants them in front.
using EncodeText = std::function<Result<std::vector<uint32_t>>(const std::string& text)>;

/// A choice follows its context after a space, unless either brings white space along. Context and choice are encoded
/// together; what differs from the context's own encoding counts as the choice. Contexts that are too long lose tokens
/// at their start. Resets the session. progress: in items.
/// errors: kInvalidArgument (a choice without tokens, or longer than the session's context; a context without any
///         tokens; names the item), kCancelled, those of `encode` and of the session
Result<ChoiceResult> evaluate_choices(Session& model, const EncodeText& encode, std::span<const ChoiceItem> items,
                                      const Progress& progress);

}  // namespace nwc
