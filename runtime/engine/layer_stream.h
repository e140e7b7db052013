// Decoding weights for a session: whole layers, row ranges, and a background thread that stays one layer ahead.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "runtime/decoder/decoder.h"
#include "runtime/engine/llama_layout.h"

namespace nwc {

/// Decodes parts of the model in one dtype. Thread-safe: calls take turns, so that the decoder's scratch memory is
/// needed once and a decoder that is not thread-safe itself can be used. Checksums are verified the first time a part
/// is touched.
class WeightSource {
 public:
  WeightSource(const NwcFile& file, Decoder& decoder, const LlamaLayout& layout, Dtype dtype, bool check_crc);

  /// out: the layer's matrices as LlamaLayout says.
  Status decode_layer(uint32_t layer, MutableBytes out);
  /// Rows [begin, end) of a matrix.
  Status decode_rows(size_t tensor, uint64_t begin, uint64_t end, MutableBytes out);
  /// All norm gains in f32, [LlamaLayout::norm_elements()].
  Status decode_norms(float* out);

 private:
  Status decode(size_t tensor, uint64_t begin, uint64_t end, Dtype dtype, MutableBytes out);
  /// Rows that share a checksum.
  uint64_t band_rows(size_t tensor) const;

  const NwcFile& file_;
  Decoder& decoder_;
  const LlamaLayout& layout_;
  const Dtype dtype_;
  const bool check_crc_;
  std::mutex mutex_;
  std::vector<std::vector<bool>> checked_;  ///< per tensor and band of rows
};

/// Layers first .. end - 1, over and over, decoded by turns into two slots of the caller's, one while the caller works
/// on the other.
class LayerStream {
 public:
  using DecodeLayer = std::function<Status(uint32_t layer, uint32_t slot)>;

  /// What the slots are outlives the stream. errors: kOutOfMemory (no thread)
  static Result<std::unique_ptr<LayerStream>> start(uint32_t first, uint32_t end, DecodeLayer decode);
  ~LayerStream();
  LayerStream(const LayerStream&) = delete;
  LayerStream& operator=(const LayerStream&) = delete;

  /// Waits for the next layer in order; 0 or 1: where it lies. After an error the stream starts again with `first`,
  /// which will be tried anew.
  Result<uint32_t> acquire();
  /// Gives the acquired slot back.
  void release();

 private:
  struct Slot {
    bool full = false;
    Status status;
  };
  LayerStream(uint32_t first, uint32_t end, DecodeLayer decode);
  void work();

  const uint32_t first_, end_;
  const DecodeLayer decode_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Slot slots_[2];
  uint32_t next_layer_;  ///< that the thread decodes
  uint32_t fill_ = 0;    ///< slot that it decodes into
  uint32_t drain_ = 0;   ///< slot that acquire() returns
  bool failed_ = false;  ///< a slot holds an error: the thread waits until acquire() has reported it
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nwc
