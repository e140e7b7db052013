// Which experts of a mixture a token takes, and by how much each counts (doc/format_model.md, part 6).
#pragma once

#include "runtime/engine/kernels_cpu.h"

namespace nwc {

/// The vectors of a router. All but the first may be nullptr.
struct RouterWeights {
  const float* rows = nullptr;         ///< [experts][hidden]
  const float* bias = nullptr;         ///< [experts]
  const float* shared_gate = nullptr;  ///< [hidden]
};

/// One token's row of Slot::kRouted.
struct Routed {
  const uint32_t* experts = nullptr;  ///< [per_token], ascending
  const float* weights = nullptr;     ///< [per_token]
  float share = 1;                    ///< of the shared expert
};
inline Routed routed_row(const float* row, uint32_t per_token) {
  return {reinterpret_cast<const uint32_t*>(row), row + per_token, row[size_t{2} * per_token]};
}

/// The norm of a router's input, in a block that has norms there.
inline Role router_norm(const BlockSpec& block) {
  return block.parallel == Parallel::kSharedNorm ? Role::kAttentionNorm : Role::kMlpNorm;
}
inline Role router_norm_bias(const BlockSpec& block) {
  return block.parallel == Parallel::kSharedNorm ? Role::kAttentionNormBias : Role::kMlpNormBias;
}

/// The row of one token from its logits [num_experts]. order: scratch for num_experts numbers.
void choose_experts(const ExpertSpec& spec, const float* bias, float* logits, uint32_t* order, float* row);

/// routed [tokens][2 per_token + 1] (Slot::kRouted) from in [tokens][hidden]. logits: [tokens][num_experts]; order:
/// num_experts numbers; scratch: kMatmulScratch floats per worker.
void route(const KernelTable& kernels, Runner& runner, const ExpertSpec& spec, const RouterWeights& router,
           uint32_t tokens, uint32_t hidden, const float* in, float* logits, uint32_t* order, float* scratch,
           float* routed);

}  // namespace nwc
