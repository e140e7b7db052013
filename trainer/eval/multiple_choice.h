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
  std::vector<std::string> contexts{};  ///< of each choice its own (WinoGrande), or empty: `context` is all of theirs
};

/// One JSON object a line, {"context": "...", "choices": ["...", ...], "answer": i}, or with "contexts": ["...", ...]
/// in place of "context"; other keys are ignored, so are empty lines. errors: kCorrupt, kLimit (a line over 1 MiB, more
/// than 64 choices); all name the line
Result<std::vector<ChoiceItem>> parse_choice_items(std::string_view jsonl);

struct ChoiceResult {
  uint64_t items = 0;
  double accuracy = 0, accuracy_se = 0;                        ///< by the sum of the continuation's log-likelihoods
  double accuracy_normalized = 0, accuracy_normalized_se = 0;  ///< by that sum per character of the choice
  std::vector<uint32_t> chosen, chosen_normalized;             ///< per item; the lowest index among equals
  std::vector<std::vector<double>> scores;                     ///< per item and choice: sums of log-likelihoods
};

/// Text to tokens, special tokens (BOS) included where the model wants them in front.
using EncodeText = std::function<Result<std::vector<uint32_t>>(const std::string& text)>;

/// Scores as lm-evaluation-harness does (0.4: `acc`, `acc_norm`). A choice follows its context after a space, unless
/// either brings white space along. White space at the end of a context counts to the choice. Both are encoded
/// together, and what comes behind as many tokens as the context alone has is the choice. Contexts that are too long
/// lose tokens at their start. Resets the session. progress: in items. errors: kInvalidArgument (a choice without
/// tokens, or longer than the session's context; a context without any
///         tokens; names the item), kCancelled, those of `encode` and of the session
Result<ChoiceResult> evaluate_choices(Session& model, const EncodeText& encode, std::span<const ChoiceItem> items,
                                      const Progress& progress);

}  // namespace nwc
