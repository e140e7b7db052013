// Sampling token after token from a session.
#pragma once

#include <functional>
#include <vector>

#include "runtime/engine/sampler.h"
#include "runtime/engine/session.h"

namespace nwc {

struct GenerateParams {
  uint32_t max_tokens = 128;
  bool stop_at_eos = true;  ///< the end token is neither reported nor appended
};

/// Feeds `prompt` (not empty, appended to what the session holds), then samples. on_token returns false to stop.
/// Ends at max_tokens, at an end token, when the context is full, or when on_token says so: all of these are no errors.
/// errors: Session::eval's
Status generate(Session& session, Sampler& sampler, std::span<const uint32_t> prompt, const GenerateParams& params,
                const std::function<bool(uint32_t token)>& on_token);

}  // namespace nwc
