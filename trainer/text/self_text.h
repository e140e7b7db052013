// A text that a model writes itself, to be calibrated with: it is spread as what the model has learned is spread, which
// no one text is (doc/architecture.md, "A text of the model's own").
#pragma once

#include <vector>

#include "runtime/engine/session.h"

namespace nwc {

struct SelfTextOptions {
  uint64_t tokens = 16384;  ///< rounded up to whole sequences
  uint32_t context = 512;   ///< tokens of each sequence
  uint64_t seed = 1;
  uint64_t memory_budget_bytes = 0;  ///< of the session that writes; 0: none. Does not change the text
  uint32_t max_sequences = 0;        ///< written side by side; 0: what 2 GiB of KV caches hold, 256 at most
};

/// Draws sequences from the model's own predictions, at temperature 1 from the full distribution (LLM-QAT: Liu et al.
/// 2023, section 3.1). A sequence begins with BOS where the tokenizer puts one in front of a text, else with a token
/// that the model itself wrote some tokens after one drawn at random. Every second sequence of an instruct model is a
/// conversation, in which the chat template opens the turns and the model writes what both sides say (Magpie: Xu et al.
/// 2024). The same tokens at any number of threads and with any budget; processors with other instructions, or another
/// max_sequences, may round logits differently, and then other tokens may follow.
/// shapes: [sequences][context]
/// errors: kUnsupported (the model cannot be run here, or predicts no tokens), kInvalidArgument (context below 2 or
///         above the model's), kCorrupt (logits that are not finite), kCancelled, the session's
Result<std::vector<uint32_t>> write_self_text(const NwcFile& file, Decoder& decoder, Runner& runner,
                                              const SelfTextOptions& options, const Progress& progress,
                                              const Logger& log);

/// What write_self_text takes beside the file, in bytes: weights, caches of all sequences written side by side, their
/// logits. errors: kUnsupported (an encoder), kInvalidArgument (context), those of plan_session
Result<uint64_t> self_text_memory_bytes(const NwcFile& file, const SelfTextOptions& options);

}  // namespace nwc
