#include "runtime/engine/generate.h"

#include <algorithm>

namespace nwc {

Status generate(Session& session, Sampler& sampler, std::span<const uint32_t> prompt, const GenerateParams& params,
                const std::function<bool(uint32_t token)>& on_token) {
  std::vector<float> logits(session.vocab_size());
  NWC_TRY(session.eval(prompt, LogitsWanted::kLast, logits));
  const std::vector<uint32_t>& eos = session.model().eos_ids;
  for (uint32_t n = 0; n < params.max_tokens; ++n) {
    const uint32_t token = sampler.sample(logits);
    if (params.stop_at_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) break;
    const bool last = n + 1 == params.max_tokens || session.position() == session.context();
    if (!on_token(token) || last) break;
    NWC_TRY(session.eval({&token, 1}, LogitsWanted::kLast, logits));
  }
  return {};
}

}  // namespace nwc
