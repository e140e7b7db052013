#include "runtime/engine/generate.h"

#include <algorithm>

namespace nwc {

Result<StopReason> generate(Session& session, Sampler& sampler, std::span<const uint32_t> prompt,
                            const GenerateParams& params, const std::function<bool(uint32_t token)>& on_token) {
  std::vector<float> logits(session.vocab_size());
  NWC_TRY(session.eval(prompt, LogitsWanted::kLast, logits));
  const std::vector<uint32_t>& eos = session.model().eos_ids;
  for (uint32_t n = 0; n < params.max_tokens; ++n) {
    const uint32_t token = sampler.sample(logits);
    if (params.stop_at_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) return StopReason::kEos;
    // Appended before it is reported: whoever has seen a token finds it in the sequence.
    if (session.position() == session.context()) return StopReason::kContextFull;
    NWC_TRY(session.append(token));
    if (!on_token(token)) return StopReason::kCallback;
    // After the last token nobody asks for logits: the next turn passes it through the layers with its own tokens.
    if (n + 1 != params.max_tokens) NWC_TRY(session.eval({}, LogitsWanted::kLast, logits));
  }
  return StopReason::kMaxTokens;
}

}  // namespace nwc
