// Stored bytes of experts, read by threads of their own, several at a time, into memory that the plan counts. A disk
// gives its speed only to those who ask for much at once, and decoding goes on meanwhile.
#pragma once

#include <condition_variable>
#include <mutex>
#include <span>
#include <thread>

#include "runtime/base/staged_reader.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/running.h"

namespace nwc {

/// The owner's calls come from one thread. Threads read between resume() and pause() only: a session that is not inside
/// a call does not use the caller's reader.
class ExpertReads {
 public:
  /// A part of the file. tensor: its name, for errors.
  struct Piece {
    uint64_t offset = 0, size = 0;
    const std::string* tensor = nullptr;
  };

  explicit ExpertReads(const StagedReader& reader) : reader_(reader) {}
  ~ExpertReads();
  ExpertReads(const ExpertReads&) = delete;
  ExpertReads& operator=(const ExpertReads&) = delete;

  /// Room for the pieces of `experts` experts, at most `bytes` each. errors: kOutOfMemory
  Status start(uint32_t experts, uint64_t bytes, HostMemory* memory);
  void resume();
  /// Waits for reads on their way, forgets the others and what was read.
  void pause();
  /// From resume() to pause(). No reads: nothing.
  using Running = nwc::Running<ExpertReads>;

  /// The expert's pieces are to be read, in front of all that may only be needed; false: there is no room now. What was
  /// asked for already is on its way.
  bool need(uint64_t expert, std::span<const Piece> pieces);
  /// The same behind what is needed, if there is room.
  void may_need(uint64_t expert, std::span<const Piece> pieces);
  /// Of what may be needed, only these experts will be, which are ascending.
  void keep(std::span<const uint64_t> experts);
  /// Waits until some of these experts, of which one at least was asked for, have been read: their numbers in the list.
  /// Then the file's reader serves their pieces from memory until release(). errors: the reader's, which name the
  /// tensor
  Status wait(std::span<const uint64_t> experts, std::vector<size_t>* read);
  void release(uint64_t expert);

 private:
  enum class State : uint8_t { kFree, kAsked, kReading, kRead };
  struct Entry {
    State state = State::kFree;
    bool needed = false, unwanted = false;
    uint64_t expert = 0, order = 0;
    std::vector<Piece> pieces;
    Status status;
  };

  void work();
  Status read(const Entry& entry, uint8_t* to) const;
  Entry* find(uint64_t expert);
  Entry* next_asked();
  uint8_t* memory(const Entry& entry) const { return memory_.data() + size_t(&entry - entries_.data()) * bytes_; }
  bool ask(uint64_t expert, std::span<const Piece> pieces, bool needed);
  void forget(Entry* entry);

  const StagedReader& reader_;
  uint64_t bytes_ = 0;
  Buffer memory_;
  std::mutex mutex_;
  std::condition_variable changed_;  ///< for the owner
  std::condition_variable work_;     ///< for the threads
  std::vector<Entry> entries_;
  uint64_t order_ = 0;
  bool running_ = false, stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nwc
