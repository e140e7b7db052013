#include "runtime/engine/expert_cache.h"

namespace nwc {
namespace {

constexpr uint64_t kNobody = UINT64_MAX;

}  // namespace

ExpertCache::ExpertCache(uint64_t experts, uint32_t slots)
    : newer_(size_t{slots} + 1),
      older_(size_t{slots} + 1),
      expert_in_(slots, kNobody),
      slot_of_(static_cast<size_t>(experts), kNone) {
  newer_[slots] = older_[slots] = slots;
  for (uint32_t slot = 0; slot < slots; ++slot) link_behind(slot, slots);
}

void ExpertCache::unlink(uint32_t slot) {
  older_[newer_[slot]] = older_[slot];
  newer_[older_[slot]] = newer_[slot];
}

// Into the ring, next to `before` on the older side of it.
void ExpertCache::link_behind(uint32_t slot, uint32_t before) {
  older_[slot] = older_[before];
  newer_[slot] = before;
  newer_[older_[before]] = slot;
  older_[before] = slot;
}

void ExpertCache::touch(uint32_t slot) {
  unlink(slot);
  link_behind(slot, slots());
}

uint32_t ExpertCache::place(uint64_t expert) {
  const uint32_t slot = newer_[slots()];  // the oldest
  uint64_t& holds = expert_in_[slot];
  if (holds != kNobody) slot_of_[static_cast<size_t>(holds)] = kNone;
  holds = expert;
  slot_of_[static_cast<size_t>(expert)] = slot;
  touch(slot);
  return slot;
}

void ExpertCache::drop(uint64_t expert) {
  const uint32_t slot = find(expert);
  if (slot == kNone) return;
  slot_of_[static_cast<size_t>(expert)] = kNone;
  expert_in_[slot] = kNobody;
  unlink(slot);
  link_behind(slot, newer_[slots()]);  // older than what was the oldest
}

}  // namespace nwc
