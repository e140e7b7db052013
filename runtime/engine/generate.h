// Sampling token after token from a session.
#pragma once

#include <functional>
#include <vector>

#include "runtime/engine/sampler.h"
#include "runtime/engine/session.h"
#include "runtime/engine/stop_strings.h"

namespace nwc {

struct GenerateParams {
  uint32_t max_tokens = 128;
  bool stop_at_eos = true;                 ///< the end token is neither reported nor appended
  std::vector<uint32_t> stop_tokens = {};  ///< more end tokens, which stop even without stop_at_eos
};

/// Why generate() ended. None of these is an error.
enum class StopReason : uint8_t {
  kMaxTokens,
  kEos,          ///< an end token was drawn, with or without room for it
  kContextFull,  ///< a token was drawn that finds no room; it is not reported
  kCallback,     ///< on_token returned false
  kStopString,   ///< a stop string or one of stop_tokens was drawn
};

/// Appends `prompt` (not empty) to what the session holds, then draws tokens. Each one is appended to the sequence,
/// then reported; on_token returns false to stop. The sequence ends with the last token that was reported. errors:
/// Session::eval's
Result<StopReason> generate(Session& session, Sampler& sampler, std::span<const uint32_t> prompt,
                            const GenerateParams& params, const std::function<bool(uint32_t token)>& on_token);

/// The same with stop strings: a token whose text may belong to one is reported when that is decided, together with its
/// text, of which what belongs to the stop string is cut off. The sequence ends with the last token that was reported.
/// token_text: the bytes of a token
Result<StopReason> generate(Session& session, Sampler& sampler, std::span<const uint32_t> prompt,
                            const GenerateParams& params, StopStrings& stop,
                            const std::function<std::string_view(uint32_t token)>& token_text,
                            const std::function<bool(uint32_t token, std::string_view text)>& on_token);

}  // namespace nwc
