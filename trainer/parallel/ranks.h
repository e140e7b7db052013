// Processes that work on one command together, on one machine or many (doc/architecture.md, Many machines). Whatever is
// dealt out goes through these few calls; only ranks_mpi.cpp knows how messages travel.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

/// All ranks run the same command and take the same decisions, from the same numbers. Rank 0 reads and writes what
/// exists once: output, messages, the cache's lock. This class itself is the only rank of its command. To be used by
/// one thread.
class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual uint32_t rank() const { return 0; }
  virtual uint32_t size() const { return 1; }
  bool first() const { return rank() == 0; }
  bool last() const { return rank() + 1 == size(); }
  bool alone() const { return size() == 1; }

  /// Sends bytes to another rank. Does not wait for them to be received, unless 1 GiB of this rank's are on the way
  /// already. Messages between two ranks keep their order. errors: kCancelled (while waiting)
  virtual Status send(uint32_t to, std::vector<uint8_t> bytes);
  /// Waits for the next message of another rank. errors: kCancelled
  virtual Result<std::vector<uint8_t>> receive(uint32_t from);
  /// Ends the processes of all ranks at once with this exit code. Files that are not complete are removed first by
  /// whoever calls. Does not return.
  virtual void abort(int exit_code);
  /// The name of this rank's machine, for messages.
  virtual std::string host() const { return ""; }
};

/// A command that runs by itself.
Ranks& one_rank();

/// Joins the other ranks where a launcher (mpirun, srun) has started this process as one of several; else the process
/// is the only one. Destroying the result waits for all ranks. stop: asked while waiting; true ends it with kCancelled.
/// errors: kUnsupported (started as one of several, but the build has no MPI), kInternal
Result<std::unique_ptr<Ranks>> join_ranks(std::function<bool()> stop);

/// Rank 0's bytes reach all ranks, by a tree of messages. errors: those of Ranks
Status broadcast(Ranks& ranks, std::vector<uint8_t>* bytes);
/// Returns, on rank 0, what every rank has given, by rank; elsewhere nothing. errors: those of Ranks
Result<std::vector<std::vector<uint8_t>>> gather(Ranks& ranks, std::vector<uint8_t> bytes);
/// The same on all ranks.
Result<std::vector<std::vector<uint8_t>>> gather_to_all(Ranks& ranks, std::vector<uint8_t> bytes);

}  // namespace nwc
