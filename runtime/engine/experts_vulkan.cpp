#include "runtime/engine/experts_vulkan.h"

#include <algorithm>
#include <cstring>

namespace nwc {
namespace {

/// Slots share buffers of about this size: a device may have no more than 4096 allocations, and none of any size.
constexpr uint64_t kSlotBufferBytes = 256u << 20;

/// What the words of the choices are, each [rows] (see SessionSizes::choices).
enum ChoiceField : uint32_t { kTokenOfRow = 0, kExpertOfRow = 1, kRowOfChoice = 2, kWeightOfChoice = 3 };

}  // namespace

ExpertsVulkan::ExpertsVulkan(const ForwardInputs& inputs, const WeightSource& source, VulkanDevice& device,
                             const LayerOps& ops, DeviceWeights& weights, const DeviceBuffer& vectors,
                             uint64_t most_macs)
    : layout_(inputs.layout),
      batch_(inputs.plan.batch),
      device_(device),
      ops_(ops),
      weights_(weights),
      vectors_(vectors),
      most_macs_(most_macs),
      schedule_(inputs, source) {
  for (const LayerLayout& layer : layout_.layers) most_experts_ = std::max(most_experts_, layer.num_experts());
}

Status ExpertsVulkan::get(DeviceBuffer& buffer, uint64_t bytes, MemoryKind kind, HostMemory* memory) {
  NWC_ASSIGN_OR_RETURN(buffer, DeviceBuffer::create(device_, bytes, kind));
  memory->bytes += buffer.size();
  return {};
}

Status ExpertsVulkan::allocate(const SessionSizes& sizes, HostMemory* memory) {
  NWC_TRY(schedule_.allocate(sizes, memory));
  slot_bytes_ = sizes.expert;
  const uint64_t most = std::min(kSlotBufferBytes, device_.info().max_allocation) / std::max<uint64_t>(1, slot_bytes_);
  const uint32_t slots = schedule_.slots();
  slots_of_buffer_ = static_cast<uint32_t>(std::clamp<uint64_t>(most, 1, slots));
  for (uint32_t s = 0; s < slots; s += slots_of_buffer_) {
    const uint64_t bytes = std::min(slots_of_buffer_, slots - s) * slot_bytes_;
    NWC_TRY(get(slots_.emplace_back(), bytes, MemoryKind::kDevice, memory));
  }
  NWC_TRY(get(logits_, sizes.router_logits, MemoryKind::kDevice, memory));
  NWC_TRY(get(readback_, sizes.router_logits, MemoryKind::kReadback, memory));
  NWC_TRY(get(rows_, sizes.expert_rows, MemoryKind::kDevice, memory));
  NWC_TRY(get(inner_, sizes.expert_inner, MemoryKind::kDevice, memory));
  NWC_TRY(get(activated_, sizes.expert_activated, MemoryKind::kDevice, memory));
  NWC_TRY(get(choices_, sizes.choices, MemoryKind::kDevice, memory));
  NWC_TRY(get(upload_, sizes.choices, MemoryKind::kUpload, memory));
  NWC_TRY(routed_.allocate(sizes.routed, memory, "the choice of experts"));
  NWC_TRY(order_.allocate(sizes.router_order, memory, "the order of experts"));
  return row_.allocate(sizes.router_order, memory, "a token's router logits");
}

ExpertSchedule::Decode ExpertsVulkan::decode(uint32_t layer) {
  return [this, layer](std::span<const ExpertPlace> places) {
    std::vector<DeviceWeights::ExpertRequest> requests;
    for (const ExpertPlace& p : places) requests.push_back({p.expert, slot(p.slot)});
    return weights_.decode_experts(layer, requests);
  };
}

ExpertsVulkan::LogitPlace ExpertsVulkan::logits_of(bool next) const {
  const uint32_t stride = most_experts_ + 1, biases = (batch_ + kExpectTokens) * stride;
  return next ? LogitPlace{batch_ * stride, biases + most_experts_} : LogitPlace{0, biases};
}

Status ExpertsVulkan::record_router(CommandBatch& batch, uint32_t layer, uint32_t tokens, const DeviceBuffer& in,
                                    LogitPlace place) {
  const uint32_t hidden = layout_.model.hidden_size, stride = logit_stride(layer);
  uint32_t at = place.at;
  const auto multiply = [&](Role role, uint32_t rows) -> Status {
    const uint32_t vector = layout_.layers[layer].vector(role);
    if (vector == kNoVector) return {};
    const DeviceMatrix matrix{&vectors_, uint64_t{vector} * sizeof(float), Dtype::kF32, rows, hidden};
    return ops_.matmul(batch, matrix, tokens, {&in, 0, hidden}, {&logits_, at, stride}, false);
  };
  NWC_TRY(multiply(Role::kRouter, stride - 1));
  at += stride - 1;
  return multiply(Role::kSharedGate, 1);
}

void ExpertsVulkan::read_back(CommandBatch& batch, uint32_t layer, uint32_t tokens, LogitPlace place) const {
  const auto copy = [&](const DeviceBuffer& from, uint64_t at, uint64_t to, uint64_t count) {
    batch.copy(from, at * sizeof(float), readback_, to * sizeof(float), count * sizeof(float));
  };
  copy(logits_, place.at, place.at, uint64_t{tokens} * logit_stride(layer));
  const uint32_t bias = layout_.layers[layer].vector(Role::kRouterBias);
  if (bias != kNoVector) copy(vectors_, bias, place.bias_at, logit_stride(layer) - 1);
}

Status ExpertsVulkan::route(CommandBatch& batch, uint32_t layer, uint32_t tokens, const DeviceBuffer& in,
                            const DeviceBuffer& residual) {
  NWC_TRY(record_router(batch, layer, tokens, in, logits_of(false)));
  expects_ = schedule_.expects(layer, tokens);
  const uint32_t next = layer + 1, n = layout_.model.hidden_size;
  if (expects_) {
    const BlockSpec& block = layout_.block(next);
    const LayerLayout& at = layout_.layers[next];
    if (block.norm_before) {
      const LayerOps::Norm norm{
          block.norm, block.norm_eps, n, 1, at.vector(router_norm(block)), at.vector(router_norm_bias(block))};
      NWC_TRY(ops_.norm(batch, norm, tokens, {&residual, 0, n}, vectors_, {&rows_, 0, n}));
      batch.barrier();
    }
    NWC_TRY(record_router(batch, next, tokens, block.norm_before ? rows_ : residual, logits_of(true)));
  }
  batch.barrier();
  read_back(batch, layer, tokens, logits_of(false));
  if (expects_) read_back(batch, next, tokens, logits_of(true));
  return {};
}

Status ExpertsVulkan::share(CommandBatch& batch, uint32_t layer, uint32_t tokens, uint32_t width,
                            const DeviceBuffer& x) const {
  const uint32_t stride = logit_stride(layer);
  return ops_.share(batch, tokens, width, {&logits_, stride - 1, stride}, x);
}

void ExpertsVulkan::choose(uint32_t layer, uint32_t tokens, LogitPlace place) {
  const ExpertSpec& spec = layout_.block(layer).experts;
  const float* const from = reinterpret_cast<const float*>(readback_.mapped().data());
  const bool biased = layout_.layers[layer].vector(Role::kRouterBias) != kNoVector;
  for (uint32_t t = 0; t < tokens; ++t) {
    std::copy_n(from + place.at + size_t{t} * logit_stride(layer), spec.num_experts, row_.as<float>());
    choose_experts(spec, biased ? from + place.bias_at : nullptr, row_.as<float>(), order_.as<uint32_t>(),
                   routed_.as<float>() + size_t{t} * (2 * spec.per_token + 1));
  }
}

// What lies in its slot comes first, together with as many of the others as do not take a slot from it: with one wave
// nothing has to be waited for.
std::vector<ExpertsVulkan::Wave> ExpertsVulkan::waves(uint32_t layer) const {
  std::vector<Wave> waves(1);
  const auto missing = [&](uint32_t e) { return schedule_.slot(layer, e) == ExpertCache::kNone; };
  for (const uint32_t e : schedule_.needed()) {
    if (!missing(e)) waves.back().experts.push_back(e);
  }
  for (const uint32_t e : schedule_.needed()) {
    if (!missing(e)) continue;
    if (waves.back().experts.size() == schedule_.slots()) waves.emplace_back();
    waves.back().experts.push_back(e);
  }
  uint32_t row = 0;
  for (Wave& wave : waves) {
    wave.first_row = row;
    for (const uint32_t e : wave.experts) row += count_of_[e];
    wave.rows = row - wave.first_row;
  }
  return waves;
}

void ExpertsVulkan::write_choices(const std::vector<Wave>& waves, uint32_t per_token) {
  const std::span<const ExpertChoice> choices = schedule_.choices();
  const size_t rows = choices.size();
  uint32_t* const words = reinterpret_cast<uint32_t*>(upload_.mapped().data());
  std::vector<uint32_t> row_of(most_experts_);  // the next one of an expert
  uint32_t row = 0;
  for (const Wave& wave : waves) {
    for (const uint32_t e : wave.experts) {
      row_of[e] = row;
      row += count_of_[e];
    }
  }
  // By expert, then by token: a token's experts come in ascending order.
  std::vector<uint32_t> taken(rows / per_token);
  for (const ExpertChoice& choice : choices) {
    const uint32_t at = row_of[choice.expert]++;
    words[kTokenOfRow * rows + at] = choice.token;
    words[kExpertOfRow * rows + at] = choice.expert;
    const size_t of_token = size_t{choice.token} * per_token + taken[choice.token]++;
    words[kRowOfChoice * rows + of_token] = at;
    std::memcpy(&words[kWeightOfChoice * rows + of_token], &choice.weight, sizeof(float));
  }
}

Status ExpertsVulkan::submit(CommandBatch& batch) {
  NWC_TRY(batch.submit_and_wait());
  macs_ = 0;
  NWC_TRY(batch.begin());
  batch.barrier();
  return {};
}

Status ExpertsVulkan::multiply(CommandBatch& batch, uint32_t layer, const Wave& wave, bool down, const DeviceRows& in,
                               const DeviceRows& out) {
  uint32_t row = wave.first_row;
  for (const uint32_t e : wave.experts) {
    const std::span<const PlacedMatrix> all = layout_.layers[layer].expert(e);
    const std::span<const PlacedMatrix> matrices = down ? all.last(1) : all.first(all.size() - 1);
    const uint32_t tokens = count_of_[e];
    uint64_t macs = 0;
    for (const PlacedMatrix& m : matrices) macs += uint64_t{m.rows} * m.cols * tokens;
    if (macs_ != 0 && macs_ + macs > most_macs_) NWC_TRY(submit(batch));
    macs_ += macs;
    NWC_TRY(weights_.multiply(batch, layer, matrices, slot(schedule_.slot(layer, e)), tokens,
                              {in.buffer, row * in.stride, in.stride}, {out.buffer, row * out.stride, out.stride},
                              false));
    row += tokens;
  }
  return {};
}

Status ExpertsVulkan::add_biases(CommandBatch& batch, uint32_t layer, Role role, const Wave& wave, uint32_t n,
                                 const DeviceBuffer& out) const {
  const uint32_t bias = layout_.layers[layer].vector(role);
  if (bias == kNoVector) return {};
  const uint32_t rows = static_cast<uint32_t>(schedule_.choices().size());
  NWC_TRY(ops_.gather(batch, wave.rows, n, choices_, kExpertOfRow * rows + wave.first_row, {&vectors_, bias, n},
                      {&out, wave.first_row * n, n}, true));
  batch.barrier();
  return {};
}

// rows_ of the wave become what its experts make of them.
Status ExpertsVulkan::compute(CommandBatch& batch, uint32_t layer, const Wave& wave, const DeviceRows& in) {
  const BlockSpec& block = layout_.block(layer);
  const uint32_t hidden = layout_.model.hidden_size, n = block.experts.intermediate_size;
  NWC_TRY(multiply(batch, layer, wave, false, in, {&inner_, 0, 2 * n}));
  batch.barrier();
  NWC_TRY(add_biases(batch, layer, Role::kExpertGateUpBias, wave, 2 * n, inner_));
  NWC_TRY(ops_.activate(batch, block, wave.rows, n, {&inner_, wave.first_row * 2 * n, 2 * n},
                        {&activated_, wave.first_row * n, n}));
  batch.barrier();
  NWC_TRY(multiply(batch, layer, wave, true, {&activated_, 0, n}, {&rows_, 0, hidden}));
  batch.barrier();
  return add_biases(batch, layer, Role::kExpertDownBias, wave, hidden, rows_);
}

Status ExpertsVulkan::run(CommandBatch& batch, uint32_t layer, uint32_t tokens, const DeviceBuffer& in, bool accumulate,
                          const DeviceBuffer& out) {
  const uint32_t hidden = layout_.model.hidden_size, per_token = layout_.block(layer).experts.per_token;
  NWC_TRY(batch.submit_and_wait());
  NWC_TRY(readback_.invalidate());
  choose(layer, tokens, logits_of(false));
  schedule_.choose(layer, tokens, routed_.as<float>());
  if (expects_) {
    choose(layer + 1, tokens, logits_of(true));
    schedule_.expect(layer + 1, tokens, routed_.as<float>());
  }
  count_of_.assign(most_experts_, 0);
  for (const ExpertChoice& choice : schedule_.choices()) ++count_of_[choice.expert];
  const std::vector<Wave> waves = this->waves(layer);
  write_choices(waves, per_token);
  NWC_TRY(upload_.flush());

  const uint32_t rows = tokens * per_token;
  macs_ = 0;
  NWC_TRY(batch.begin());
  batch.barrier();
  batch.copy(upload_, 0, choices_, 0, uint64_t{rows} * 4 * sizeof(uint32_t));
  batch.barrier();
  if (tokens != 1) {
    NWC_TRY(
        ops_.gather(batch, rows, hidden, choices_, kTokenOfRow * rows, {&in, 0, hidden}, {&rows_, 0, hidden}, false));
    batch.barrier();
  }
  for (const Wave& wave : waves) {
    if (&wave != &waves.front()) NWC_TRY(submit(batch));  // the products before still read what makes way
    NWC_TRY(schedule_.bring(layer, wave.experts, decode(layer)));
    // One token's experts all read the same row.
    NWC_TRY(compute(batch, layer, wave, tokens != 1 ? DeviceRows{&rows_, 0, hidden} : DeviceRows{&in, 0, 0}));
  }
  return ops_.combine(batch, tokens, hidden, per_token, choices_, kRowOfChoice * rows, kWeightOfChoice * rows, rows_,
                      out, accumulate);
}

}  // namespace nwc
