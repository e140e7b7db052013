#include "runtime/engine/expert_reads.h"

#include <algorithm>

#include "runtime/base/exceptions.h"

namespace nwc {
namespace {

/// Reads at a time: more make no disk faster that was tried, and a network's callbacks may count connections.
constexpr uint32_t kThreads = 4;

}  // namespace

ExpertReads::~ExpertReads() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  for (Entry& entry : entries_) forget(&entry);
}

Status ExpertReads::start(uint32_t experts, uint64_t bytes, HostMemory* memory) {
  bytes_ = Buffer::rounded(bytes);
  NWC_TRY(memory_.allocate(experts * bytes_, memory, "stored experts that are read ahead", Filled::kPartly));
  entries_ = std::vector<Entry>(experts);
  const bool started = guarded(
      [&] {
        for (uint32_t i = 0; i < std::min(kThreads, experts); ++i) threads_.emplace_back([this] { work(); });
      },
      [](StatusCode, const char*) {});
  // Fewer do, too.
  if (!started && threads_.empty())
    return Status(StatusCode::kOutOfMemory, "the system gives no thread to read experts");
  return {};
}

void ExpertReads::resume() {
  std::lock_guard lock(mutex_);
  running_ = true;
}

void ExpertReads::pause() {
  std::unique_lock lock(mutex_);
  running_ = false;
  changed_.wait(lock, [this] {
    return std::none_of(entries_.begin(), entries_.end(), [](const Entry& e) { return e.state == State::kReading; });
  });
  for (Entry& entry : entries_) forget(&entry);
}

ExpertReads::Entry* ExpertReads::find(uint64_t expert) {
  const auto at = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) {
    return e.state != State::kFree && !e.unwanted && e.expert == expert;
  });
  return at == entries_.end() ? nullptr : &*at;
}

// What is needed comes first, then what was asked for first.
ExpertReads::Entry* ExpertReads::next_asked() {
  Entry* next = nullptr;
  for (Entry& e : entries_) {
    if (e.state != State::kAsked) continue;
    if (next == nullptr || (e.needed != next->needed ? e.needed : e.order < next->order)) next = &e;
  }
  return next;
}

// What is being read goes when that has ended.
void ExpertReads::forget(Entry* entry) {
  if (entry->state == State::kReading) {
    entry->unwanted = true;
    return;
  }
  if (entry->state == State::kRead) {  // also after an error, which may have come when some pieces were held
    const uint8_t* from = memory(*entry);
    for (const Piece& piece : entry->pieces) {
      reader_.release({from, static_cast<size_t>(piece.size)});
      from += piece.size;
    }
  }
  entry->state = State::kFree;
  entry->needed = entry->unwanted = false;
  entry->status = {};
}

bool ExpertReads::ask(uint64_t expert, std::span<const Piece> pieces, bool needed) {
  std::lock_guard lock(mutex_);
  if (!running_) return false;
  if (Entry* const known = find(expert); known != nullptr) {
    known->needed |= needed;
    return true;
  }
  Entry* free = nullptr;
  for (Entry& e : entries_) {
    // What may be needed makes way for what is, unless a thread is at it.
    const bool yields = needed && !e.needed && e.state != State::kReading;
    if (e.state == State::kFree || (yields && free == nullptr)) free = &e;
  }
  if (free == nullptr) return false;
  forget(free);
  free->state = State::kAsked;
  free->needed = needed;
  free->expert = expert;
  free->order = ++order_;
  free->pieces.assign(pieces.begin(), pieces.end());
  work_.notify_one();
  return true;
}

bool ExpertReads::need(uint64_t expert, std::span<const Piece> pieces) { return ask(expert, pieces, true); }
void ExpertReads::may_need(uint64_t expert, std::span<const Piece> pieces) { ask(expert, pieces, false); }

void ExpertReads::keep(std::span<const uint64_t> experts) {
  std::lock_guard lock(mutex_);
  for (Entry& e : entries_) {
    if (e.state != State::kFree && !std::binary_search(experts.begin(), experts.end(), e.expert)) forget(&e);
  }
}

Status ExpertReads::wait(std::span<const uint64_t> experts, std::vector<size_t>* read) {
  std::unique_lock lock(mutex_);
  for (read->clear();;) {
    for (size_t i = 0; i < experts.size(); ++i) {
      const Entry* const entry = find(experts[i]);
      if (entry == nullptr || entry->state != State::kRead) continue;
      if (!entry->status.ok()) return entry->status;
      read->push_back(i);
    }
    if (!read->empty()) return {};
    changed_.wait(lock);
  }
}

void ExpertReads::release(uint64_t expert) {
  std::lock_guard lock(mutex_);
  if (Entry* const entry = find(expert); entry != nullptr) forget(entry);
}

Status ExpertReads::read(const Entry& entry, uint8_t* to) const {
  for (const Piece& piece : entry.pieces) reader_.will_read(piece.offset, piece.size);
  for (const Piece& piece : entry.pieces) {
    const size_t size = static_cast<size_t>(piece.size);
    if (Status status = reader_.source().read(piece.offset, {to, size}); !status.ok())
      return status.with_context(str_cat("tensor '", *piece.tensor, "'"));
    to += size;
  }
  to = memory(entry);
  for (const Piece& piece : entry.pieces) {
    reader_.hold(piece.offset, {to, static_cast<size_t>(piece.size)});
    to += piece.size;
  }
  return {};
}

void ExpertReads::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    Entry* entry = nullptr;
    work_.wait(lock, [&] { return stop_ || (running_ && (entry = next_asked()) != nullptr); });
    if (stop_) return;
    entry->state = State::kReading;
    lock.unlock();
    Status status;
    // A caller's reader must not end the process. That text is short enough to need no memory itself.
    guarded([&] { status = read(*entry, memory(*entry)); },
            [&](StatusCode code, const char* text) {
              status = Status(code, code == StatusCode::kOutOfMemory ? "out of memory" : text);
            });
    lock.lock();
    entry->status = std::move(status);
    entry->state = State::kRead;
    if (entry->unwanted) forget(entry);
    changed_.notify_all();
  }
}

}  // namespace nwc
