// A .nwc file as the GGUF file that `nwc decompress` makes of it, which is nowhere: its bytes are made when they are
// read.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trainer/inspect/gguf_tensors.h"

namespace nwc {

class GgufStream {
 public:
  /// type: of the matrices; nullptr: as in decompress_to_gguf. threads: 0: one per core.
  /// errors: those of NwcFile::open and plan_gguf
  static Result<std::unique_ptr<GgufStream>> open(const std::string& path, const GgufFileType* type, uint32_t threads);

  uint64_t size() const { return size_; }
  /// What was left out or has another type, a sentence each.
  const std::vector<std::string>& notes() const { return notes_; }
  /// Whether reading from `offset` on needs no tensor of which an earlier part would be thrown away: everywhere but
  /// within a tensor that is not kept.
  bool ready(uint64_t offset) const;
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
};

}  // namespace nwc
