// What all fuzzers share: ending the process in a way that keeps the input, files for what reads files, and inputs
// that hold two files.
#pragma once

#include <string>
#include <utility>

#include "runtime/base/bytes.h"

namespace nwc::fuzz {

/// Prints `what` and aborts: a fuzzer then keeps the input that led here.
[[noreturn]] void fail(const std::string& what);

/// fail() unless `holds`.
inline void require(bool holds, const char* what) {
  if (!holds) fail(what);
}

/// A folder of this process in the folder for temporary files (TMPDIR; best in memory), removed at exit.
const std::string& scratch_folder();
/// Writes scratch_folder()/name anew and returns its path.
std::string scratch_file(const std::string& name, Bytes bytes);

/// An input of two files: a text, which ends at the first NUL byte or at the end, and what follows that byte.
std::pair<Bytes, Bytes> split_at_nul(Bytes input);

/// A small generator for harnesses and mutators: the same numbers with every standard library (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next();
  /// In [0, bound); 0 for a bound of 0.
  uint64_t below(uint64_t bound) { return bound == 0 ? 0 : next() % bound; }
  bool one_in(uint64_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

/// A number that depends on all bytes, to derive further choices from (FNV-1a).
uint64_t hash_of(Bytes bytes);

}  // namespace nwc::fuzz

/// libFuzzer's own mutation, or in replays a simple one: changes up to `max_size` bytes in place, returns the new size.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
