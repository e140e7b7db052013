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
    const std::vector<uint32_t>& stops = params.stop_tokens;
    if (params.stop_at_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) return StopReason::kEos;
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) return StopReason::kStopString;
    // Appended before it is reported: whoever has seen a token finds it in the sequence.
    if (session.position() == session.context()) return StopReason::kContextFull;
    NWC_TRY(session.append(token));
    if (!on_token(token)) return StopReason::kCallback;
    // After the last token nobody asks for logits: the next turn passes it through the layers with its own tokens.
    if (n + 1 != params.max_tokens) NWC_TRY(session.eval({}, LogitsWanted::kLast, logits));
  }
  return StopReason::kMaxTokens;
}

Result<StopReason> generate(Session& session, Sampler& sampler, std::span<const uint32_t> prompt,
                            const GenerateParams& params, StopStrings& stop,
                            const std::function<std::string_view(uint32_t token)>& token_text,
                            const std::function<bool(uint32_t token, std::string_view text)>& on_token) {
  bool stopped = false, go_on = true;
  uint32_t reported = 0;
  std::vector<StopStrings::Piece> pieces;
  const auto report = [&] {
    for (size_t i = 0; i < pieces.size() && go_on; ++i, ++reported) go_on = on_token(pieces[i].token, pieces[i].text);
    pieces.clear();
  };
  uint32_t drawn = 0;
  Result<StopReason> reason = generate(session, sampler, prompt, params, [&](uint32_t token) {
    ++drawn;
    stopped = stop.add(token, token_text(token), &pieces);
    report();
    return go_on && !stopped;
  });
  if (!reason.ok()) return reason;
  if (!stopped && go_on) stop.finish(&pieces);
  report();
  if (reported < drawn) NWC_TRY(session.truncate(session.position() - (drawn - reported)));
  if (!go_on) return StopReason::kCallback;
  return stopped ? StopReason::kStopString : *reason;
}

}  // namespace nwc
