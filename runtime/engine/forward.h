// The forward pass on one kind of processor: what a session drives.
#pragma once

#include <memory>
#include <span>

#include "runtime/engine/file_layout.h"
#include "runtime/engine/session.h"
#include "runtime/engine/session_state.h"

namespace nwc {

/// What a forward pass works with. Everything referred to outlives it.
struct ForwardInputs {
  const NwcFile& file;
  Decoder& decoder;
  Runner& runner;
  const SessionParams& params;
  const ModelLayout& layout;
  const MemoryPlan& plan;
};

/// Weights, activations and the KV cache of one sequence. Not thread-safe.
class Forward {
 public:
  virtual ~Forward() = default;
  /// Passes tokens (at most plan.batch, all of them valid) at positions position, position + 1, ... through the layers;
  /// keys and values of earlier positions are those of earlier calls. Keeps the final hidden states for hidden() and
  /// logits().
  virtual Status run(std::span<const uint32_t> tokens, uint32_t position) = 0;
  /// The same for the tokens of that many sequences, all at `position`, each with a KV cache of its own. errors:
  /// kUnsupported
  virtual Status run_each(std::span<const uint32_t> tokens, uint32_t position) {
    static_cast<void>(tokens), static_cast<void>(position);
    return unsupported("sequences do not advance side by side here");
  }
  /// The same as run() with the residual stream x [tokens][hidden_size] in place of tokens, at position 0: of an image.
  virtual Status run_embedded(std::span<const float> x) = 0;
  /// out [count][hidden_size]: final hidden states of tokens first, first + 1, ... of the last run.
  virtual Status hidden(uint32_t first, uint32_t count, float* out) = 0;
  /// out [count][vocab_size] of tokens first, first + 1, ... of the last run.
  virtual Status logits(uint32_t first, uint32_t count, float* out) = 0;
  /// Does the cache still hold what a token at position `to` sees, after positions up to from - 1 went through?
  virtual bool can_go_back(size_t from, size_t to) const = 0;
  /// Copies the first sequence's keys and values, of which `places` says where they lie, to out or from in.
  virtual Status save_cache(const KeptCache& places, MutableBytes out) = 0;
  virtual Status load_cache(const KeptCache& places, Bytes in) = 0;
  virtual ExpertStats expert_stats() const { return {}; }
  /// Bytes that are allocated now, on whatever side.
  virtual uint64_t allocated_bytes() const = 0;
};

/// Allocates what the plan says and decodes what stays. errors: kOutOfMemory, kCancelled, the decoder's
Result<std::unique_ptr<Forward>> create_cpu_forward(const ForwardInputs& inputs, const Progress& progress);
/// On the device of a decoder that has one. errors: as above; kUnsupported (shapes that the kernels do not take),
/// kDevice, kDeviceLost
Result<std::unique_ptr<Forward>> create_vulkan_forward(const ForwardInputs& inputs, const Progress& progress);

/// What products with these coded tensors take on the device, payloads and all else. 0 without Vulkan.
uint64_t vulkan_fused_bytes(const NwcFile& file, std::span<const size_t> tensors, uint64_t window_bytes);

}  // namespace nwc
