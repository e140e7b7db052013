// Sizes of everything that a session allocates, shared by plan and session: the plan is what gets allocated.
#pragma once

#include "runtime/engine/held_weights.h"
#include "runtime/engine/session.h"

namespace nwc {

/// Bytes of each buffer. All of them are multiples of Buffer's alignment.
struct SessionSizes {
  uint64_t layer = 0;      ///< the largest layer's matrices
  uint64_t embedding = 0;  ///< embedding, whole
  uint64_t head = 0;       ///< output head, whole; 0 if tied
  uint64_t positions = 0;  ///< learned position embeddings, whole
  uint64_t vectors = 0;    ///< gains of norms, and biases
  uint64_t head_band = 0;  ///< one band of rows of the head
  uint32_t head_band_rows = 0;
  uint64_t embedding_row = 0;
  uint64_t kv_cache = 0;        ///< of all sequences
  uint32_t sequence_batch = 0;  ///< tokens of one sequence that pass through the layers together
  uint64_t hidden = 0;          ///< [batch][hidden]; the CPU has three, a device two or three
  uint64_t qkv = 0;             ///< [batch][q_width + 2 kv_width], of the widest layer, as all below
  uint64_t attention = 0;       ///< [batch][q_width]
  uint64_t gate_up = 0;         ///< [batch][2 intermediate], or [batch][intermediate]
  uint64_t angles = 0;          ///< [batch][RotaryTables::width()]
  uint64_t integers = 0;        ///< inputs of products with integers
  uint64_t worker_scratch = 0;  ///< per worker of the CPU
  uint64_t encoder = 0;         ///< EncoderEnds
  // Of a mixture of experts only:
  uint64_t expert = 0;         ///< the largest expert's matrices
  uint64_t stored_expert = 0;  ///< most bytes of the file that an expert is read from
  uint64_t routed = 0;         ///< [batch][2 per_token + 1]
  uint64_t router_logits =
      0;  ///< [batch][experts]; on a device [batch + kExpectTokens][experts + 1] and two biases [experts]
  uint64_t router_order = 0;  ///< [experts]
  uint64_t expert_inner = 0;  ///< [batch][2 experts' intermediate]; on a device [batch * per_token][..]
  // On a device only:
  uint64_t layer_cache = 0;  ///< the largest layer's part of the KV cache
  uint64_t activated = 0;    ///< [batch][intermediate]
  uint64_t partials = 0;     ///< of attention that is split over the positions of a long context
  uint64_t inputs = 0;       ///< token ids, angles, embedding rows: on both sides
  uint64_t logits = 0;       ///< [kDeviceLogitRows][vocab], and no less than a token's hidden state: on both sides
  // On a device, of a mixture of experts, whose router_logits are on both sides:
  uint64_t expert_rows = 0;       ///< [batch * per_token][hidden]: inputs of experts, which their outputs replace
  uint64_t expert_activated = 0;  ///< [batch * per_token][experts' intermediate]
  uint64_t choices = 0;           ///< [batch * per_token][4]: tokens, experts, rows, weights: on both sides
};
/// Experts that are decoded together, each on as many threads as there are.
inline constexpr uint32_t kExpertsAtOnce = 8;
/// Tokens of a batch that is asked which experts come next: a longer one needs most of them anyway.
inline constexpr uint32_t kExpectTokens = 4;
/// Rows of logits that a device computes at a time.
inline constexpr uint32_t kDeviceLogitRows = 8;
/// held: of the plan.
SessionSizes session_sizes(const NwcFile& file, const ModelLayout& layout, const SessionParams& params,
                           const HeldWeights& held, uint32_t context, uint32_t batch);

/// Threads of a session: as asked for, else one per core.
uint32_t session_workers(const SessionParams& params);

/// The most memory that decoding takes at a time, beside its output, with what it keeps.
uint64_t decoder_scratch(const NwcFile& file, const ModelLayout& layout, const SessionParams& params,
                         const HeldWeights& held);

/// The bytes of the file that decoding a tensor reads: begin, end. The padding in front, which is checked, is among
/// them.
std::pair<uint64_t, uint64_t> stored_range(const NwcFile& file, size_t tensor);

/// A device's KV cache of one layer, keys and values.
uint64_t device_cache_bytes(const BlockSpec& block, uint32_t context, uint32_t batch, Dtype dtype);

}  // namespace nwc
