// Importance matrices of llama.cpp: the mean square of every input of a model's matrices, over a text that the model
// has read. Both forms: the older .dat, and GGUF with general.type "imatrix" (llama.cpp, tools/imatrix/README.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/base/reader.h"

namespace nwc {

class GgufFile;

/// The inputs of one matrix, or of several that lie in one tensor (experts), one after another.
struct ImatrixEntry {
  std::string name;            ///< of the matrix in GGUF: "blk.0.attn_q.weight"
  uint64_t size = 0;           ///< inputs, of all matrices together
  std::vector<double> counts;  ///< by which its sums are divided, for each matrix; .dat: one number for all
  const Reader* reader = nullptr;
  uint64_t offset = 0;  ///< of the sums of squares, f32
};

/// safety: untrusted input. Immutable, thread-safe.
class Imatrix {
 public:
  /// Reads and checks the whole file and keeps its directory.
  /// errors: kUnrecognized (a GGUF file of something else; neither form), kTruncated, kCorrupt (a value or count that
  /// is negative or not finite, a name that occurs twice, counts that are missing or do not fit), kLimit, kIo. They
  /// name the entry.
  static Result<Imatrix> open(std::unique_ptr<Reader> reader);

  /// By name.
  const std::vector<ImatrixEntry>& entries() const { return entries_; }
  /// nullptr: not there.
  const ImatrixEntry* find(const std::string& name) const;
  /// Mean squares of `count` inputs of an entry, from number `first` on; 0 where nothing was seen.
  Result<std::vector<float>> read(const ImatrixEntry& entry, uint64_t first, uint64_t count) const;

  /// Hash of names and mean squares, 16 digits; of what both forms say alike, the same.
  const std::string& hash() const { return hash_; }
  /// Pieces of the text; 0: not said.
  uint64_t chunks() const { return chunks_; }
  /// Names of the texts, as far as they are said.
  const std::vector<std::string>& datasets() const { return datasets_; }

 private:
  Status parse_dat(const Reader& reader);
  Status parse_gguf(const GgufFile& file);
  Status finish();

  std::shared_ptr<const void> storage_;  ///< owns what entries read from
  std::vector<ImatrixEntry> entries_;
  std::string hash_;
  uint64_t chunks_ = 0;
  std::vector<std::string> datasets_;
};

}  // namespace nwc
