// A .nwc file as the GGUF file that `nwc decompress` makes of it, which is nowhere: its bytes are made when they are
// read.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "trainer/inspect/gguf_tensors.h"

namespace nwc {

/// Memory that goes back to the system piece by piece, where the heap would keep it, in large pages, whose first touch
/// costs little.
class PageArena {
 public:
  PageArena() = default;
  PageArena(const PageArena&) = delete;
  PageArena& operator=(const PageArena&) = delete;
  ~PageArena();

  /// Replaces what there was. False where there is no memory.
  bool reserve(size_t size);
  /// The next `size` bytes, which are 0; empty where they are not left.
  MutableBytes take(size_t size);
  /// The bytes of one take().
  static void give_back(MutableBytes bytes);

 private:
  uint8_t* begin_ = nullptr;
  size_t size_ = 0, taken_ = 0;
};

class GgufStream {
 public:
  /// type: of the matrices; nullptr: as in decompress_to_gguf. threads: 0: one per core.
  /// errors: those of NwcFile::open and plan_gguf
  static Result<std::unique_ptr<GgufStream>> open(const std::string& path, const GgufFileType* type, uint32_t threads);

  ~GgufStream();

  /// Begins to decode tensors, from the first, on a thread: whoever reads the stream from its beginning is busy with
  /// the header first, and often on one thread. It ends when the first tensor is wanted, or has 256 MiB; each one's
  /// memory is given back when it is read. A reader that has allocated all its memory and not touched it yet, as
  /// llama.cpp has, needs no more for that at its peak. Without a thread nothing happens.
  void begin();

  uint64_t size() const { return size_; }
  /// What was left out or has another type, a sentence each.
  const std::vector<std::string>& notes() const { return notes_; }
  /// Whether reading from `offset` on needs no tensor of which an earlier part would be thrown away: everywhere but
  /// within a tensor that is not kept.
  bool ready(uint64_t offset);
  /// Where the part ends that `offset` lies in: the header, or a tensor with its padding.
  uint64_t part_end(uint64_t offset) const;
  /// Fills `out` with the bytes from `offset` on; the range lies in the file. A tensor that is read in one piece is
  /// decoded where it is wanted; for parts of it, it is kept until another one is read. One call at a time.
  /// errors: kInvalidArgument (range), those of GgufTensors::make
  Status read(uint64_t offset, MutableBytes out);

 private:
  GgufStream() = default;
  Status make(size_t tensor, MutableBytes out);
  size_t tensor_at(uint64_t offset) const;

  std::unique_ptr<NwcFile> file_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Decoder> decoder_;
  std::optional<SourceRecord> source_;
  GgufPlan plan_;
  Progress no_progress_;  ///< llama.cpp reports its own
  std::optional<GgufTensors> tensors_;
  std::vector<std::string> notes_;
  std::vector<uint8_t> header_;
  std::vector<uint64_t> begins_, sizes_;  ///< of tensors; what lies between is padding
  uint64_t size_ = 0;
  std::optional<size_t> kept_tensor_;
  std::vector<uint8_t> kept_;

  void decode_ahead();
  void end_ahead();
  /// The tensor if it is there ahead; else empty. Ends decoding ahead.
  MutableBytes ahead(size_t tensor);

  std::thread beginner_;              ///< runs while there is one: who needs the decoder ends it
  std::atomic<bool> wanted_ = false;  ///< it is to end
  PageArena arena_;
  std::vector<MutableBytes> ahead_;  ///< of the first tensors; empty ones are read, or have no bytes
};

}  // namespace nwc
