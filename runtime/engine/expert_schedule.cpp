#include "runtime/engine/expert_schedule.h"

#include <algorithm>
#include <chrono>

namespace nwc {
namespace {

std::vector<uint64_t> count_before(const ModelLayout& layout) {
  std::vector<uint64_t> before = {0};
  for (const LayerLayout& layer : layout.layers) before.push_back(before.back() + layer.num_experts());
  return before;
}

}  // namespace

ExpertSchedule::ExpertSchedule(const NwcFile& file, const ModelLayout& layout, const MemoryPlan& plan,
                               const WeightSource& source)
    : file_(file),
      layout_(layout),
      source_(source),
      before_(count_before(layout)),
      cache_(before_.back(), plan.expert_slots) {}

Status ExpertSchedule::load(uint32_t layer, const Decode& decode) {
  const uint32_t count = layout_.layers[layer].num_experts();
  std::vector<uint32_t> experts(count);
  for (uint32_t e = 0; e < count; ++e) experts[e] = e;
  for (uint32_t e = 0; e < count; e += kExpertsAtOnce) {
    NWC_TRY(bring(layer, std::span(experts).subspan(e, std::min(kExpertsAtOnce, count - e)), decode));
  }
  stats_ = {};
  return {};
}

void ExpertSchedule::choose(uint32_t layer, uint32_t tokens, const float* routed) {
  const uint32_t per_token = layout_.block(layer).experts.per_token, width = 2 * per_token + 1;
  choices_.clear();
  for (uint32_t t = 0; t < tokens; ++t) {
    const Routed row = routed_row(routed + size_t{t} * width, per_token);
    for (uint32_t i = 0; i < per_token; ++i) choices_.push_back({row.experts[i], t, row.weights[i]});
  }
  std::sort(choices_.begin(), choices_.end(), [](const ExpertChoice& a, const ExpertChoice& b) {
    return a.expert != b.expert ? a.expert < b.expert : a.token < b.token;
  });
  needed_.clear();
  for (const ExpertChoice& choice : choices_) {
    if (needed_.empty() || needed_.back() != choice.expert) needed_.push_back(choice.expert);
  }
  for (const uint32_t e : expected_) stats_.predicted_used += std::binary_search(needed_.begin(), needed_.end(), e);
  expected_.clear();
  for (const uint32_t e : needed_) {  // so that they do not make way for those that are decoded first
    if (const uint32_t at = slot(layer, e); at != ExpertCache::kNone) cache_.touch(at);
  }
}

bool ExpertSchedule::expects(uint32_t layer, uint32_t tokens) const {
  const size_t next = size_t{layer} + 1;
  return !holds_all() && tokens <= kExpectTokens && next < layout_.layers.size() &&
         layout_.layers[next].num_experts() != 0;
}

void ExpertSchedule::expect(uint32_t layer, uint32_t tokens, const float* routed) {
  const uint32_t per_token = layout_.block(layer).experts.per_token, width = 2 * per_token + 1;
  expected_.clear();
  for (uint32_t t = 0; t < tokens; ++t) {
    const Routed row = routed_row(routed + size_t{t} * width, per_token);
    expected_.insert(expected_.end(), row.experts, row.experts + per_token);
  }
  std::sort(expected_.begin(), expected_.end());
  expected_.erase(std::unique(expected_.begin(), expected_.end()), expected_.end());
  std::erase_if(expected_, [&](uint32_t e) { return slot(layer, e) != ExpertCache::kNone; });
  stats_.predicted += expected_.size();
  for (const uint32_t e : expected_) {
    for (const PlacedMatrix& m : layout_.layers[layer].expert(e)) source_.will_decode(m.tensor);
  }
}

// Experts that lie in memory are touched, the others decoded together.
Status ExpertSchedule::bring(uint32_t layer, std::span<const uint32_t> experts, const Decode& decode) {
  std::vector<ExpertPlace> missing;
  for (const uint32_t e : experts) {
    if (const uint32_t at = slot(layer, e); at != ExpertCache::kNone) {
      cache_.touch(at);
      ++stats_.hits;
    }
  }
  for (const uint32_t e : experts) {
    if (slot(layer, e) != ExpertCache::kNone) continue;
    missing.push_back({e, cache_.place(before_[layer] + e)});
    for (const PlacedMatrix& m : layout_.layers[layer].expert(e)) {
      source_.will_decode(m.tensor);
      stats_.bytes_read += file_.tensors()[m.tensor].size;
    }
  }
  if (missing.empty()) return {};
  stats_.misses += missing.size();
  const auto start = std::chrono::steady_clock::now();
  if (stream_ != nullptr) stream_->pause();
  Status status = decode(missing);
  if (stream_ != nullptr) stream_->resume();
  stats_.stall_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!status.ok()) {
    for (const ExpertPlace& place : missing) cache_.drop(before_[layer] + place.expert);
  }
  return status;
}

}  // namespace nwc
