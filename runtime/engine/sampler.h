// From logits to the next token.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

/// Applied in this order: penalties, temperature, top-k, top-p, min-p. The penalties look at the tokens that this
/// sampler has drawn, and not at the prompt: c(t) is how often it has drawn token t, and a token with c(t) = 0 is left
/// alone. Otherwise its logit is divided by `repetition` if it is positive, and multiplied by it if not; then
/// `presence` and c(t) * `frequency` are subtracted. With temperature 0 the largest of the changed logits wins.
struct SamplerParams {
  float temperature = 0;  ///< 0: greedy (the lowest id among equals); otherwise finite and positive
  uint32_t top_k = 0;     ///< keep the k likeliest tokens; 0: all
  float top_p = 1;        ///< keep the likeliest tokens whose probabilities first reach p; in (0, 1]
  uint64_t seed = 0;
  float min_p = 0;       ///< of what is left, keep tokens at least min_p times as probable as the likeliest; in [0, 1]
  float repetition = 1;  ///< finite and positive; 1: off
  float presence = 0;    ///< finite; 0: off
  float frequency = 0;   ///< finite; 0: off
};

/// PCG32 (O'Neill 2014, PCG-XSH-RR 64/32): the same numbers on every platform.
class Pcg32 {
 public:
  explicit Pcg32(uint64_t seed, uint64_t stream = 54);
  uint32_t next();
  /// Uniform in [0, 1), 32 random bits.
  double uniform() { return next() * 0x1p-32; }

 private:
  uint64_t state_ = 0;
  uint64_t increment_;
};

class Sampler {
 public:
  /// errors: kInvalidArgument, naming the parameter
  static Result<Sampler> create(const SamplerParams& params);
  /// logits is [vocab_size], not empty. NaN counts as minus infinity.
  uint32_t sample(std::span<const float> logits);

 private:
  explicit Sampler(const SamplerParams& params) : params_(params), rng_(params.seed) {}
  bool penalizes() const { return params_.repetition != 1 || params_.presence != 0 || params_.frequency != 0; }
  void penalize();  ///< candidates_, which are still in the order of their ids
  uint32_t draw(std::span<const float> logits);
  SamplerParams params_;
  Pcg32 rng_;
  struct Candidate {
    float logit;
    uint32_t id;
  };
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
  std::map<uint32_t, uint32_t> drawn_;  ///< how often; only where there are penalties
};

}  // namespace nwc
