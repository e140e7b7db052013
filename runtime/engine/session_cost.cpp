#include "runtime/engine/session_cost.h"

#include <algorithm>
#include <chrono>

#include "runtime/engine/device_rates.h"
#include "runtime/engine/expert_rate.h"
#include "runtime/engine/file_layout.h"
#include "runtime/engine/held_weights.h"
#include "runtime/engine/kernels_cpu.h"

namespace nwc {
namespace {

constexpr uint32_t kProbeRows = 4096, kProbeCols = 2048;  // 16 MiB of f16, more than a core's caches
constexpr double kMostFusedSeconds = 0.02;

/// Bytes of f16 weights that the engine's product with one token gets through in a second.
double memory_rate(Runner& runner) {
  const KernelTable& kernels = kernel_table(detect_cpu_level());
  const std::vector<uint16_t> weights(size_t{kProbeRows} * kProbeCols, 0x3c00);
  const std::vector<float> x(kProbeCols, 1.0f);
  std::vector<float> y(kProbeRows), scratch(runner.num_workers() * kMatmulScratch);
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    matmul(kernels, runner, 1, x.data(), kProbeCols, {weights.data(), Dtype::kF16, kProbeRows, kProbeCols}, y.data(),
           kProbeRows, scratch.data());
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return 2.0 * kProbeRows * kProbeCols / std::max(best, 1e-9);
}

/// A token multiplies by the experts that it takes. Some are found in memory, and the others are read and decoded.
void add_experts(const NwcFile& file, const ModelLayout& layout, const MemoryPlan& plan, SessionCost* cost,
                 uint64_t* multiplied) {
  if (plan.num_experts == 0) return;
  const bool all = plan.expert_slots == plan.num_experts;
  const double share = static_cast<double>(plan.expert_slots) / plan.num_experts;
  double used_experts = 0, found_experts = 0, read_bytes = 0;
  for (uint32_t l = 0; l < layout.layers.size(); ++l) {
    const LayerLayout& layer = layout.layers[l];
    const uint32_t count = layer.num_experts();
    if (count == 0) continue;
    const uint32_t per_token = layout.block(l).experts.per_token;
    const double hits = expected_expert_hits(share, count), missing = (1 - hits) * per_token;
    used_experts += per_token;
    found_experts += hits * per_token;
    *multiplied += layer.expert_elements * per_token;
    if (all) cost->resident_weights += layer.expert_elements * count;
    cost->weights_per_token += static_cast<uint64_t>(missing * static_cast<double>(layer.expert_elements));
    uint64_t stored = 0;
    for (uint32_t e = 0; e < count; ++e) {
      for (const PlacedMatrix& m : layer.expert(e)) stored += file.tensors()[m.tensor].size;
    }
    read_bytes += missing * static_cast<double>(stored) / count;
  }
  cost->expert_hits = found_experts / used_experts;
  cost->read_bytes_per_token = static_cast<uint64_t>(read_bytes);
}

double seconds(uint64_t amount, double per_second) {
  return per_second > 0 ? static_cast<double>(amount) / per_second : 0;
}

}  // namespace

Result<SessionRates> measure_session_rates(const NwcFile& file, Decoder& decoder, Runner& runner) {
  SessionRates rates;
  NWC_ASSIGN_OR_RETURN(const DecodeRate decode, measure_decode_rate(file, decoder));
  rates.decoded_weights = rates.fused_weights = decode.weights_per_second();
  // Tensors that are too large to be tried are left to the decoder's rate, which is lower.
  const uint64_t most = static_cast<uint64_t>(kMostFusedSeconds * rates.decoded_weights);
  if (decoder.on_device() != nullptr) {
    NWC_ASSIGN_OR_RETURN(const double fused, device_fused_rate(file, decoder, most));
    if (fused > 0) rates.fused_weights = fused;
    NWC_ASSIGN_OR_RETURN(rates.memory_bytes, device_memory_rate(decoder));
    return rates;
  }
  if (decode.weights != 0) {
    NWC_ASSIGN_OR_RETURN(const DecodeRate fused, measure_fused_rate(file, runner, detect_cpu_level(), most));
    if (fused.weights != 0) rates.fused_weights = fused.weights_per_second();
  }
  rates.memory_bytes = memory_rate(runner);
  return rates;
}

Result<SessionCost> session_cost(const NwcFile& file, const MemoryPlan& plan, Dtype weight_dtype,
                                 const SessionRates& rates) {
  NWC_ASSIGN_OR_RETURN(const ModelLayout layout, resolve_file_layout(file));
  SessionCost cost;
  if (file.codec()) cost.mac_per_weight = file.codec()->synthesis.mac_per_weight();
  uint64_t multiplied = 0;  // weights that lie decoded in memory when they are multiplied
  const auto add = [&](size_t tensor, bool resident, bool used) {
    const TensorRecord& record = file.tensors()[tensor];
    const uint64_t weights = record.num_elements();
    const bool coded = record.storage == Storage::kCoded;
    if (used && (resident || !coded || plan.mode != SessionMode::kFused)) multiplied += weights;
    if (coded && resident) cost.resident_weights += weights;
    if (coded && !resident && used) cost.weights_per_token += weights;
  };
  for (uint32_t l = 0; l < layout.layers.size(); ++l)
    for (const PlacedMatrix& m : layout.layers[l].matrices) add(m.tensor, l < plan.resident_layers, true);
  add_experts(file, layout, plan, &cost, &multiplied);
  if (layout.has_head()) add(layout.head, plan.head_resident, true);
  if (layout.has_embedding() && layout.head != layout.embedding) add(layout.embedding, plan.embedding_resident, false);
  cost.load_seconds = seconds(cost.resident_weights, rates.decoded_weights);
  cost.decode_seconds_per_token =
      seconds(cost.weights_per_token, plan.mode == SessionMode::kFused ? rates.fused_weights : rates.decoded_weights);
  cost.read_seconds_per_token = seconds(cost.read_bytes_per_token, rates.read_bytes);
  if (const double rate = plan.integers == IntegerWeights::kQ8 ? plan.q8_per_second : plan.packed_per_second;
      plan.integers != IntegerWeights::kNone && rate > 0) {
    cost.multiply_seconds_per_token = seconds(multiplied, rate);
    return cost;
  }
  cost.multiply_seconds_per_token =
      seconds(static_cast<uint64_t>(static_cast<double>(multiplied) * (plan.integers != IntegerWeights::kNone
                                                                           ? plan.held->bytes_per_weight(layout)
                                                                           : dtype_size(weight_dtype))),
              rates.memory_bytes);
  return cost;
}

}  // namespace nwc
