// Weight chunks of one or many models, sampled into a buffer of bounded size (paper, sections 3.1 and A.3).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/constants.h"
#include "trainer/data/source_notes.h"

namespace nwc {

struct DatasetOptions {
  std::vector<std::string> sources;  ///< what open_model_source takes
  bool include_embedding = false;    ///< embeddings are compressed too, but are no linear layers
  uint64_t max_chunks = 1 << 20;     ///< training chunks kept, 64 bytes each
  uint64_t validation_chunks = 8192;
  uint64_t seed = 1;
};

/// Chunks of columns divided by the column's root mean square, in a seeded random order. The same options and files
/// give the same bytes. Columns that are zero and chunks that would need padding are left out.
class ChunkDataset {
 public:
  /// One tensor is in memory at a time. errors: those of open_model_source and read_f32; kNotFound, when the sources
  /// hold no matrix to learn from
  static Result<ChunkDataset> load(const DatasetOptions& options);
  /// chunks [training + validation][16]
  static ChunkDataset from_chunks(std::vector<float> chunks, size_t validation);

  size_t training_size() const { return chunks_.size() / kChunk - validation_; }
  size_t validation_size() const { return validation_; }
  /// [16]
  std::span<const float> training(size_t i) const {
    return std::span(chunks_).subspan((validation_ + i) * kChunk, kChunk);
  }
  /// The first `count` of the training set, which is in random order. [count][16]
  std::span<const float> training_chunks(size_t count) const {
    return std::span(chunks_).subspan(validation_ * kChunk, count * kChunk);
  }
  /// [validation_size()][16]
  std::span<const float> validation() const { return std::span(chunks_).first(validation_ * kChunk); }
  /// CRC-32 of all chunks: a resumed training has to see the same data.
  uint32_t digest() const { return digest_; }
  /// Chunks that the sources have, of which a sample was kept.
  uint64_t available() const { return available_; }
  /// What each source has left out, guessed or repaired.
  struct NotesOf {
    std::string source;
    SourceNotes notes;
  };
  const std::vector<NotesOf>& notes() const { return notes_; }

 private:
  std::vector<float> chunks_;
  size_t validation_ = 0;
  uint64_t available_ = 0;
  uint32_t digest_ = 0;
  std::vector<NotesOf> notes_;
};

/// Order of one epoch: permutation[i] is the chunk that comes i-th. Only depends on its arguments.
std::vector<uint32_t> epoch_permutation(uint64_t seed, uint64_t epoch, size_t size);

}  // namespace nwc
