// Which mode, batch and layers fit a budget.
#pragma once

#include "runtime/engine/session_sizes.h"

namespace nwc {

/// plan_session with the layout already resolved.
Result<MemoryPlan> plan_session(const NwcFile& file, const ModelLayout& layout, const SessionParams& params);

/// Layers that go through the two buffers.
inline uint32_t streamed_layers(const ModelRecord& model, const MemoryPlan& plan) {
  return plan.mode == SessionMode::kFused ? 0 : model.num_layers - plan.resident_layers;
}
/// Layers that are multiplied by as they are stored, or decoded into one buffer for many tokens.
inline uint32_t fused_layers(const ModelRecord& model, const MemoryPlan& plan) {
  return plan.mode == SessionMode::kFused ? model.num_layers - plan.resident_layers : 0;
}
/// Tensors whose payloads a device keeps for products.
std::vector<size_t> fused_matrices(const NwcFile& file, const ModelLayout& layout, const MemoryPlan& plan);

}  // namespace nwc
