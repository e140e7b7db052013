// From logits to the next token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

/// Applied in this order: temperature, top-k, top-p.
struct SamplerParams {
  float temperature = 0;  ///< 0: greedy (the lowest id among equals); otherwise finite and positive
  uint32_t top_k = 0;     ///< keep the k likeliest tokens; 0: all
  float top_p = 1;        ///< keep the likeliest tokens whose probabilities first reach p; in (0, 1]
  uint64_t seed = 0;
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
  SamplerParams params_;
  Pcg32 rng_;
  struct Candidate {
    float logit;
    uint32_t id;
  };
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
};

}  // namespace nwc
