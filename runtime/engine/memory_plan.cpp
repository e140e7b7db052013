#include "runtime/engine/memory_plan.h"

#include <algorithm>
#include <optional>

#include "runtime/codec/fused_product.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/weight_range.h"

namespace nwc {
namespace {

/// Batches that a plan tries, largest first. A streamed layer is decoded once per batch, so larger ones pay there.
constexpr uint32_t kResidentBatches[] = {128, 64, 32, 16, 4, 1};
constexpr uint32_t kStreamedBatches[] = {256, 128, 64, 32, 16, 4, 1};

/// Of what a budget leaves for experts, no more than this part is for reading ahead.
constexpr uint64_t kReadAheadShare = 8;

class Planner {
 public:
  Planner(const NwcFile& file, const ModelLayout& layout, const SessionParams& params,
          std::shared_ptr<const HeldWeights> held)
      : file_(file),
        layout_(layout),
        params_(params),
        held_(std::move(held)),
        workers_(session_workers(params)),
        batch_(layout.model.is_encoder() ? UINT32_MAX
               : params.sequences != 1   ? params.sequences
                                         : params.batch),
        num_experts_(static_cast<uint32_t>(layout.num_experts())),
        decoder_scratch_(decoder_scratch(file, layout, params, *held_)) {}

  /// Fills in every size that follows from mode, context, batch, resident_layers and the two flags.
  MemoryPlan price(MemoryPlan plan) const {
    const SessionSizes s = session_sizes(file_, layout_, params_, *held_, plan.context, plan.batch);
    plan.held = held_;
    plan.integers = held_->which;
    plan.requantized = held_->requantized;
    uint64_t experts = 0;
    if (!checked_mul(plan.expert_slots, s.expert, &experts)) experts = UINT64_MAX / 4;  // no budget holds that
    plan.weights = s.vectors + s.positions + s.encoder + resident_bytes(plan.resident_layers) +
                   (plan.embedding_resident ? s.embedding : 0) + (plan.head_resident ? s.head : 0) + experts;
    plan.num_experts = num_experts_;
    const bool fused = plan.mode == SessionMode::kFused;
    plan.layer_buffers = (streamed_layers(layout_.model, plan) != 0 ? 2 * s.layer
                          : fused_layers(layout_.model, plan) != 0  ? s.layer
                                                                    : 0) +
                         (plan.embedding_resident ? 0 : s.embedding_row) + (plan.head_resident ? 0 : s.head_band) +
                         plan.experts_read_ahead * s.stored_expert;
    plan.kv_cache = s.kv_cache;
    plan.activations =
        params_.compute == Compute::kVulkan
            ? (layout_.uses(Slot::kBranch) ? 3 : 2) * s.hidden + s.qkv + s.attention + s.partials + s.gate_up +
                  s.activated + 2 * s.inputs + 2 * s.logits
            : 3 * s.hidden + s.qkv + s.attention + s.gate_up + s.angles + s.integers + workers_ * s.worker_scratch;
    if (num_experts_ != 0) {
      plan.activations += s.routed + s.router_logits + s.router_order + s.expert_inner;
      plan.activations += params_.compute == Compute::kVulkan
                              ? s.router_logits + s.router_order + s.expert_rows + s.expert_activated + 2 * s.choices
                              : 2 * s.hidden;
    }
    plan.decoder_scratch = decoder_scratch_;
    if (fused && params_.compute == Compute::kVulkan) {
      plan.weights += vulkan_fused_bytes(file_, fused_matrices(file_, layout_, plan), params_.device_window_bytes);
    } else if (fused) {
      plan.decoder_scratch += FusedProduct::max_bytes(file_, workers_, 1);
    }
    plan.compressed_file = file_.reader().size();
    plan.total = plan.weights + plan.layer_buffers + plan.kv_cache + plan.activations + plan.decoder_scratch +
                 (params_.file_in_memory ? plan.compressed_file : 0);
    return plan;
  }
  uint64_t resident_bytes(uint32_t layers) const {
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < layers; ++l) bytes += Buffer::rounded(held_->layers[l].bytes);
    return bytes;
  }
  bool fits(const MemoryPlan& plan) const {
    return addressable(plan.total) && (params_.memory_budget_bytes == 0 || plan.total <= params_.memory_budget_bytes);
  }
  MemoryPlan resident(uint32_t context, uint32_t batch) const {
    MemoryPlan plan;
    plan.mode = SessionMode::kResident;
    plan.context = context;
    plan.batch = batch;
    plan.resident_layers = layout_.model.num_layers;
    plan.expert_slots = num_experts_;
    plan.embedding_resident = plan.head_resident = true;
    return price(plan);
  }
  MemoryPlan streamed(uint32_t context, uint32_t batch) const {
    MemoryPlan plan;
    plan.mode = SessionMode::kStreamed;
    plan.context = context;
    plan.batch = batch;
    plan.expert_slots = least_slots();
    // One or two layers fill the two buffers anyway: they stay.
    plan.resident_layers = layout_.model.num_layers <= 2 ? layout_.model.num_layers : 0;
    return price(plan);
  }
  MemoryPlan fused(uint32_t context, uint32_t batch) const {
    MemoryPlan plan;
    plan.mode = SessionMode::kFused;
    plan.context = context;
    plan.batch = batch;
    plan.expert_slots = least_slots();
    return price(plan);
  }
  MemoryPlan least(SessionMode mode, uint32_t context) const {
    const uint32_t batch = least_batch(context);
    return mode == SessionMode::kResident ? resident(context, batch)
           : mode == SessionMode::kFused  ? fused(context, batch)
                                          : streamed(context, batch);
  }
  /// Spends what the budget leaves on what every batch needs, embedding, head, then (kCached, kFused) layers, and then
  /// on experts.
  MemoryPlan upgraded(MemoryPlan plan, bool cache_layers) const {
    plan = with_dense_parts(std::move(plan), cache_layers);
    if (num_experts_ == 0 || !cache_layers) return plan;
    if (plan.mode == SessionMode::kStreamed) plan.mode = SessionMode::kCached;
    const SessionSizes sizes = session_sizes(file_, layout_, params_, *held_, plan.context, plan.batch);
    const auto left = [&] {
      return params_.memory_budget_bytes == 0 ? UINT64_MAX : params_.memory_budget_bytes - plan.total;
    };
    const auto slots = [&] {
      return static_cast<uint32_t>(
          std::min<uint64_t>(num_experts_, plan.expert_slots + left() / std::max<uint64_t>(1, sizes.expert)));
    };
    // Those that a token lacks of this layer and the next one, as long as they take little from what is kept.
    if (slots() < num_experts_ && file_.reader().view(0, 1) == nullptr) {
      plan.experts_read_ahead = static_cast<uint32_t>(std::min<uint64_t>(
          2 * uint64_t{least_slots()}, left() / kReadAheadShare / std::max<uint64_t>(1, sizes.stored_expert)));
      plan = price(plan);
    }
    plan.expert_slots = slots();
    return price(plan);
  }
  MemoryPlan with_dense_parts(MemoryPlan plan, bool cache_layers) const {
    const auto take = [&](MemoryPlan better) {
      better = price(better);
      if (fits(better)) plan = better;
    };
    MemoryPlan better = plan;
    better.head_resident = true;
    if (layout_.model.tied_embeddings) better.embedding_resident = true;
    take(better);
    better = plan;
    better.embedding_resident = true;
    if (layout_.model.tied_embeddings) better.head_resident = true;
    take(better);
    const uint32_t layers = layout_.model.num_layers;
    const bool fused = plan.mode == SessionMode::kFused;
    if (!cache_layers || (!fused && layers <= 2)) return plan;
    const auto with = [&](uint32_t n) {
      MemoryPlan p = plan;
      if (!fused) p.mode = n == 0 ? SessionMode::kStreamed : SessionMode::kCached;
      p.resident_layers = n;
      return price(p);
    };
    if (MemoryPlan all = with(layers); fits(all)) return all;
    // Fewer than three streamed layers would not need less memory than all of them resident.
    uint32_t low = 0, high = fused ? layers : layers - 2;  // low fits, high is out of the question
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (fits(with(middle)) ? low : high) = middle;
    }
    return with(low);
  }

  /// Batches to try with this context.
  std::vector<uint32_t> batches(std::span<const uint32_t> candidates, uint32_t context) const {
    if (batch_ != 0) return {least_batch(context)};
    std::vector<uint32_t> list;
    for (uint32_t b : candidates) {
      b = std::min(b, context);
      if (list.empty() || list.back() != b) list.push_back(b);
    }
    return list;
  }
  /// Slots that any token can do with: of its experts, none makes way for another.
  uint32_t least_slots() const {
    uint32_t most = 0;
    for (const BlockSpec& block : layout_.model.blocks) most = std::max(most, block.experts.per_token);
    return std::min(most, num_experts_);
  }
  uint32_t least_batch(uint32_t context) const {
    if (params_.sequences != 1) return batch_;
    return batch_ != 0 ? std::min(batch_, context) : 1;
  }

  /// Products with coded weights need less memory than decoding layer by layer, and with a linear synthesis they are
  /// faster for single tokens (doc/measurements.md, "Memory and tokens by mode"). A network takes most of the time
  /// either way, and streaming overlaps it with the products.
  bool prefers_fused() const {
    return num_experts_ == 0 && file_.codec() && file_.codec()->synthesis.width == 0 &&
           !coded_matrices(layout_, file_).empty();
  }
  std::optional<MemoryPlan> best_fused(uint32_t context) const {
    for (const uint32_t batch : batches(kStreamedBatches, context)) {
      const MemoryPlan plan = fused(context, batch);
      if (fits(plan)) return params_.memory_budget_bytes == 0 ? plan : upgraded(plan, true);
    }
    return {};
  }

  Status over_budget(uint32_t context, const MemoryPlan& least) const {
    // Where addresses have 64 bits, only a budget refuses.
    const uint64_t budget =
        sizeof(size_t) >= 8 || params_.memory_budget_bytes != 0 ? params_.memory_budget_bytes : kMostBytesOf32Bits;
    std::string message = "a session of " + std::to_string(context) + " tokens needs at least " +
                          std::to_string(least.total) + " bytes in mode " + session_mode_name(least.mode) +
                          ", the budget is " + std::to_string(budget);
    uint32_t low = 0, high = context;  // low fits (0: nothing does), high does not
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (fits(this->least(least.mode, middle)) ? low : high) = middle;
    }
    message += low != 0 ? "; a context of " + std::to_string(low) + " tokens would fit"
                        : "; no context would fit, raise the budget";
    if (least.mode == SessionMode::kResident) {
      message += "; mode streamed needs " + std::to_string(streamed(context, least_batch(context)).total) + " bytes";
    }
    return Status(StatusCode::kBudget, message);
  }

 private:
  const NwcFile& file_;
  const ModelLayout& layout_;
  const SessionParams& params_;
  const std::shared_ptr<const HeldWeights> held_;
  const uint32_t workers_;
  const uint32_t batch_;  ///< that has to be: an encoder reads all at once, sequences advance together; 0: free
  const uint32_t num_experts_;
  const uint64_t decoder_scratch_;
};

Status check_params(const ModelRecord& model, const SessionParams& params) {
  if (params.weight_dtype != Dtype::kF32 && params.weight_dtype != Dtype::kF16 && params.weight_dtype != Dtype::kBf16) {
    return unsupported(str_cat("weight_dtype ", dtype_name(params.weight_dtype), ": use F32, F16 or BF16"));
  }
  if (params.kv_dtype != Dtype::kF32 && params.kv_dtype != Dtype::kF16) {
    return unsupported(str_cat("kv_dtype ", dtype_name(params.kv_dtype), ": use F32 or F16"));
  }
  if (params.sequences != 1 && (params.sequences == 0 || params.compute != Compute::kCpu || model.is_encoder())) {
    return unsupported(str_cat(params.sequences,
                               " sequences side by side: a language model on the CPU takes 1 or more, "
                               "anything else takes 1"));
  }
  if (params.context > model.max_positions) {
    return invalid_argument(
        str_cat("context ", params.context, " is longer than the model's maximum, ", model.max_positions));
  }
  return {};
}

}  // namespace

const char* session_mode_name(SessionMode mode) {
  switch (mode) {
    case SessionMode::kAuto: return "auto";
    case SessionMode::kResident: return "resident";
    case SessionMode::kStreamed: return "streamed";
    case SessionMode::kCached: return "cached";
    case SessionMode::kFused: return "fused";
  }
  return "unknown";
}

std::vector<size_t> fused_matrices(const NwcFile& file, const ModelLayout& layout, const MemoryPlan& plan) {
  if (plan.mode != SessionMode::kFused) return {};
  return coded_matrices(layout, file, plan.resident_layers, !plan.head_resident);
}

namespace {

/// With weights in one form.
Result<MemoryPlan> plan_with(const NwcFile& file, const ModelLayout& layout, const SessionParams& params,
                             const std::shared_ptr<const HeldWeights>& held, uint32_t context) {
  const Planner planner(file, layout, params, held);
  const MemoryPlan least_resident = planner.least(SessionMode::kResident, context);
  const MemoryPlan least_streamed = planner.least(SessionMode::kStreamed, context);
  const MemoryPlan least_fused = planner.least(SessionMode::kFused, context);
  const auto finish = [&](MemoryPlan plan) {
    plan.needed_resident = least_resident.total;
    plan.needed_streamed = least_streamed.total;
    plan.needed_fused = least_fused.total;
    plan.weight_dtype = params.weight_dtype;
    if (held->any_integers() || params.weight_dtype != Dtype::kF16) return plan;
    plan.weight_warning = why_not_f16(file, layout);
    if (plan.weight_warning.empty()) return plan;
    if (params.fit_weight_dtype) {  // of the same size: no other number changes
      plan.weight_dtype = Dtype::kBf16;
      plan.held = std::make_shared<const HeldWeights>(hold_floats(layout, Dtype::kBf16));
    }
    plan.weight_warning += params.fit_weight_dtype ? ": bf16 is taken" : ": ask for bf16 or f32 instead";
    return plan;
  };
  if (params.mode == SessionMode::kResident || params.mode == SessionMode::kAuto) {
    for (uint32_t batch : planner.batches(kResidentBatches, context)) {
      const MemoryPlan plan = planner.resident(context, batch);
      if (planner.fits(plan)) return finish(plan);
    }
  }
  if (params.mode == SessionMode::kResident) return planner.over_budget(context, least_resident);
  const bool may_fuse = params.mode == SessionMode::kAuto && planner.prefers_fused();
  if (params.mode == SessionMode::kFused || may_fuse) {
    if (const std::optional<MemoryPlan> plan = planner.best_fused(context)) return finish(*plan);
  }
  if (params.mode == SessionMode::kFused) return planner.over_budget(context, least_fused);
  for (uint32_t batch : planner.batches(kStreamedBatches, context)) {
    const MemoryPlan plan = planner.streamed(context, batch);
    if (planner.fits(plan)) return finish(planner.upgraded(plan, params.mode != SessionMode::kStreamed));
  }
  return planner.over_budget(context,
                             may_fuse && least_fused.total < least_streamed.total ? least_fused : least_streamed);
}

/// How much faster kQ8 has to be than kPacked to be worth its memory.
constexpr double kWorthwhile = 1.05;

}  // namespace

Result<MemoryPlan> plan_session(const NwcFile& file, const ModelLayout& layout, const SessionParams& params) {
  NWC_TRY(check_params(layout.model, params));
  const uint32_t context =
      params.context != 0 ? params.context : std::min(layout.model.max_positions, kDefaultContextCap);
  const bool on_device = params.compute == Compute::kVulkan, choose = params.integers == IntegerWeights::kAuto;
  const char* const why_not = why_no_integers(file, params.integers);
  if (params.integers == IntegerWeights::kNone || why_not != nullptr) {
    const auto held = std::make_shared<const HeldWeights>(hold_floats(layout, params.weight_dtype));
    NWC_ASSIGN_OR_RETURN(MemoryPlan plan, plan_with(file, layout, params, held, context));
    if (choose) plan.choice = WeightChoice::kNoIntegers;
    if (params.integers != IntegerWeights::kNone && !choose) plan.integers_note = why_not;
    plan.f16_bytes = hold_floats(layout, Dtype::kF16).bytes();
    return plan;
  }
  std::shared_ptr<const HeldForms> forms = params.forms;
  if (forms == nullptr || forms->q8.on_device != on_device) {
    NWC_ASSIGN_OR_RETURN(HeldForms made, hold_integers(file, layout, on_device, params.check_crc));
    forms = std::make_shared<const HeldForms>(std::move(made));
  }
  const auto plan_as = [&](IntegerWeights which) {
    return plan_with(file, layout, params, std::shared_ptr<const HeldWeights>(forms, &forms->as(which)), context);
  };
  NWC_ASSIGN_OR_RETURN(MemoryPlan plan, plan_as(choose ? IntegerWeights::kPacked : params.integers));
  const IntegerRates& rates = params.integer_rates;
  const bool measured = rates.measured() && !on_device;
  const double q8_seconds = measured ? forms->q8.product_seconds(layout, rates) : 0;
  const double packed_seconds = measured ? forms->packed.product_seconds(layout, rates) : 0;
  if (choose && on_device) {
    plan.choice = WeightChoice::kOnDevice;
  } else if (choose) {
    Result<MemoryPlan> q8 = plan_as(IntegerWeights::kQ8);
    const bool both_stay =
        q8.ok() && q8->mode == SessionMode::kResident && plan.mode == SessionMode::kResident && q8->batch == plan.batch;
    plan.choice = !both_stay ? WeightChoice::kSmaller : measured ? WeightChoice::kFaster : WeightChoice::kNotMeasured;
    if (plan.choice == WeightChoice::kFaster && q8_seconds * kWorthwhile < packed_seconds) {
      plan = std::move(q8).value();
      plan.choice = WeightChoice::kFaster;
    }
  }
  plan.forms = forms;
  plan.f16_bytes = hold_floats(layout, Dtype::kF16).bytes();
  plan.q8_bytes = forms->q8.bytes();
  plan.packed_bytes = forms->packed.bytes();
  if (measured) {
    const double weights = static_cast<double>(forms->q8.multiplied_weights(layout));
    plan.q8_per_second = weights / q8_seconds;
    plan.packed_per_second = weights / packed_seconds;
  }
  return plan;
}

Result<MemoryPlan> plan_session(const NwcFile& file, const SessionParams& params) {
  NWC_ASSIGN_OR_RETURN(const ModelLayout layout, resolve_file_layout(file));
  return plan_session(file, layout, params);
}

}  // namespace nwc
