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

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void stored_pieces(const NwcFile& file, const LayerLayout& layer, uint32_t expert,
                   std::vector<ExpertReads::Piece>* pieces) {
  pieces->clear();
  for (const PlacedMatrix& m : layer.expert(expert)) {
    const auto [begin, end] = stored_range(file, m.tensor);
    pieces->push_back({begin, end - begin, &file.tensors()[m.tensor].name});
  }
}

ExpertSchedule::ExpertSchedule(const ForwardInputs& inputs, const WeightSource& source)
    : file_(inputs.file),
      layout_(inputs.layout),
      source_(source),
      chosen_(inputs.params.experts_chosen),
      reads_at_once_(inputs.plan.experts_read_ahead),
      before_(count_before(layout_)),
      cache_(before_.back(), inputs.plan.expert_slots) {}

Status ExpertSchedule::allocate(const SessionSizes& sizes, HostMemory* memory) {
  if (reads_at_once_ == 0) return {};
  reads_ = std::make_unique<ExpertReads>(file_.reader());
  return reads_->start(reads_at_once_, sizes.stored_expert, memory);
}

std::span<const ExpertReads::Piece> ExpertSchedule::pieces(uint32_t layer, uint32_t expert) {
  stored_pieces(file_, layout_.layers[layer], expert, &pieces_);
  return pieces_;
}

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
    if (chosen_) chosen_(layer, {row.experts, per_token});
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
  if (reads_ == nullptr) return;
  std::vector<uint64_t> missing;
  for (const uint32_t e : needed_) {
    if (slot(layer, e) == ExpertCache::kNone) missing.push_back(number(layer, e));
  }
  reads_->keep(missing);
  for (const uint64_t n : missing) {
    const uint32_t e = static_cast<uint32_t>(n - before_[layer]);
    if (!reads_->need(n, pieces(layer, e))) break;  // bring() asks for the others
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
    if (reads_ != nullptr) {
      reads_->may_need(number(layer, e), pieces(layer, e));
    } else {
      for (const PlacedMatrix& m : layout_.layers[layer].expert(e)) source_.will_decode(m.tensor);
    }
  }
}

Status ExpertSchedule::decode_now(std::span<const ExpertPlace> places, const Decode& decode) {
  if (stream_ != nullptr) stream_->pause();
  Status status = decode(places);
  if (stream_ != nullptr) stream_->resume();
  return status;
}

// What has been read is decoded while the rest is on its way. *missing: at the end those that were not decoded.
Status ExpertSchedule::decode_as_read(uint32_t layer, std::vector<ExpertPlace>* missing, const Decode& decode) {
  std::vector<uint64_t> asked;
  std::vector<size_t> read;
  std::vector<ExpertPlace> places;
  while (!missing->empty()) {
    asked.clear();
    for (const ExpertPlace& p : *missing) {
      if (!reads_->need(number(layer, p.expert), pieces(layer, p.expert))) break;
      asked.push_back(number(layer, p.expert));
    }
    if (asked.empty()) {  // other experts fill the memory
      NWC_TRY(decode_now(*missing, decode));
      missing->clear();
      return {};
    }
    const auto start = std::chrono::steady_clock::now();
    const Status status = reads_->wait(asked, &read);
    stats_.read_seconds += seconds_since(start);
    NWC_TRY(status);
    places.clear();
    for (const size_t i : read) places.push_back((*missing)[i]);
    NWC_TRY(decode_now(places, decode));
    for (const size_t i : read) reads_->release(asked[i]);
    std::erase_if(*missing, [&](const ExpertPlace& p) {
      return std::any_of(places.begin(), places.end(), [&](const ExpertPlace& q) { return q.expert == p.expert; });
    });
  }
  return {};
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
    missing.push_back({e, cache_.place(number(layer, e))});
    for (const PlacedMatrix& m : layout_.layers[layer].expert(e)) {
      if (reads_ == nullptr) source_.will_decode(m.tensor);
      stats_.bytes_read += file_.tensors()[m.tensor].size;
    }
  }
  if (missing.empty()) return {};
  stats_.misses += missing.size();
  const auto start = std::chrono::steady_clock::now();
  Status status = reads_ == nullptr ? decode_now(missing, decode) : decode_as_read(layer, &missing, decode);
  stats_.stall_seconds += seconds_since(start);
  if (!status.ok()) {
    if (reads_ != nullptr) reads_->keep({});
    for (const ExpertPlace& place : missing) cache_.drop(number(layer, place.expert));
  }
  return status;
}

}  // namespace nwc
