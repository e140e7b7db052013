// What a block computes, as a flat list of steps over a few buffers. The CPU engine, the Vulkan engine, the trainer
// (forward and backward) and the memory plan interpret this list. No step asks which family a model belongs to.
#pragma once

#include <string>
#include <vector>

#include "runtime/format/block_spec.h"

namespace nwc {

/// Activations of a batch of tokens, [tokens][width].
enum class Slot : uint8_t {
  kResidual,  ///< [hidden], what goes from block to block
  kNormed,    ///< [hidden]
  kBranch,    ///< [hidden], what attention or the MLP is about to add
  kQkv,       ///< [q_width + 2 kv_width]: queries, keys, values
  kAttended,  ///< [q_width]
  kInner,     ///< [intermediate], or gate and up beside each other [2 intermediate]; in a mixture the shared expert's
  /// [2 per_token + 1]: numbers of the experts that a token takes, ascending, as u32; their weights; and by how much
  /// the shared expert counts.
  kRouted,
};
inline constexpr uint32_t kNumSlots = 7;

/// Linear layers that have the same input are one product: their rows lie one below the other.
enum class Linear : uint8_t { kQkv = 0, kOutput = 1, kGateUp = 2, kDown = 3 };
inline constexpr uint32_t kNumLinears = 4;

enum class StepKind : uint8_t {
  kNorm,      ///< out = norm(in), with the gain and, for layer norms, the bias of the roles
  kLinear,    ///< out = in W^T + bias, or out += that (accumulate)
  kQkNorm,    ///< queries and keys in place
  kRotate,    ///< queries and keys in place, and the scale of queries by temperature
  kAttend,    ///< keys and values enter the cache; out = attention of the queries
  kActivate,  ///< in place: the first `intermediate` numbers become activation(gate) * up, or activation(up)
  kScale,     ///< in place: times the vector of `gain`
  kAdd,       ///< out += scale * in
  kRoute,     ///< out = which experts a token takes
  kExperts,   ///< out = what these experts make of in, by their weights, or out += that (accumulate)
  kShare,     ///< in place: times what kRouted says of the shared expert
};

struct Step {
  StepKind kind = StepKind::kNorm;
  Slot in = Slot::kResidual, out = Slot::kResidual;
  Linear linear = Linear::kQkv;                                       ///< kLinear
  Role gain = Role::kAttentionNorm, bias = Role::kAttentionNormBias;  ///< kNorm; kScale: gain
  bool accumulate = false;                                            ///< kLinear, kExperts
  float scale = 1;                                                    ///< kAdd
};

/// The steps of a block of this kind, in order.
std::vector<Step> block_steps(const BlockSpec& spec);
/// "normed = norm(residual)", one line a step: for tests and for people.
std::string describe(const std::vector<Step>& steps);

/// Is there a bias behind this product?
bool has_bias(const BlockSpec& spec, Linear linear);
/// Numbers a token has in a slot.
uint32_t slot_width(const BlockSpec& spec, uint32_t hidden_size, Slot slot);

}  // namespace nwc
