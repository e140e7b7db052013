// Decoding weights for a session: whole layers, row ranges, and a background thread that stays one layer ahead.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "runtime/decoder/decoder.h"
#include "runtime/engine/held_weights.h"
#include "runtime/engine/running.h"

namespace nwc {

/// Which rows of which tensors have had their checksums verified.
class CheckedRows {
 public:
  explicit CheckedRows(const NwcFile& file) : file_(file), checked_(file.tensors().size()) {}
  /// Is there a row in [begin, end) whose checksum is still to be verified?
  bool any_unchecked(size_t tensor, uint64_t begin, uint64_t end);
  /// Rows [begin, end) were decoded, and their checksums were right.
  void mark(size_t tensor, uint64_t begin, uint64_t end);
  /// Rows that share a checksum: a band of tiles, or the whole of a raw tensor.
  uint64_t band_rows(size_t tensor) const;

 private:
  const NwcFile& file_;
  std::vector<std::vector<uint8_t>> checked_;  ///< per tensor and band of rows: 1 if so
};

/// Rows of a piece of a matrix of which `weights` are to be decoded at a time: whole pairs of bands of tiles, since
/// tiles are decoded in pairs, one above the other. A band is any multiple of 16 rows.
constexpr uint64_t piece_rows(uint64_t weights, uint64_t cols, uint64_t band_rows) {
  const uint64_t pair = 2 * band_rows;
  return ceil_div(std::max<uint64_t>(1, weights / cols), pair) * pair;
}

/// An expert of a layer, and where it is decoded to.
struct ExpertRequest {
  uint32_t expert = 0;
  MutableBytes out;  ///< its matrices as ModelLayout says
};

/// Decodes parts of the model as HeldWeights says. One call at a time; with a LayerStream, the owner's
/// calls are made while the stream is paused, so that no call waits for more than a piece of a matrix. Checksums are
/// verified the first time a part is touched.
class WeightSource {
 public:
  /// num_workers: of the decoder's runner.
  WeightSource(const NwcFile& file, Decoder& decoder, const ModelLayout& layout, const HeldWeights& held,
               bool check_crc, uint32_t num_workers);

  /// out: the layer's matrices as ModelLayout says.
  Status decode_layer(uint32_t layer, MutableBytes out);
  /// The same in pieces 0, 1, ... of a few milliseconds each. True: it was the last one.
  Result<bool> decode_layer_piece(uint32_t layer, uint32_t piece, MutableBytes out);
  /// Different experts of a layer, together.
  Status decode_experts(uint32_t layer, std::span<const ExpertRequest> requests);
  /// A tensor, or a layer, if there is one of that number, will be decoded soon: its bytes of the file are asked for.
  void will_decode(size_t tensor) const;
  void will_decode_layer(uint32_t layer) const;
  /// All rows of a matrix, in this form.
  Status decode_matrix(size_t tensor, const HeldMatrix& held, MutableBytes out);
  /// Rows [begin, end) of a matrix as HeldWeights::row_dtype.
  Status decode_rows(size_t tensor, uint64_t begin, uint64_t end, MutableBytes out);
  /// In f32, each at its place: ModelLayout::vectors, or its ends.
  Status decode_vectors(std::span<const VectorPlace> vectors, float* out);

 private:
  Status decode(size_t tensor, uint64_t begin, uint64_t end, Dtype dtype, MutableBytes out);
  Status decode_floats(uint32_t layer, const PlacedMatrix& m, MutableBytes out, std::vector<IntegerRequest>* integers);
  Status decode_integers(std::span<const IntegerRequest> requests);
  Status decode_held(size_t tensor, const HeldMatrix& held, uint64_t begin, uint64_t end, MutableBytes out);

  Decoder& decoder_;
  const NwcFile& file_;
  const ModelLayout& layout_;
  const HeldWeights& held_;
  const bool check_crc_;
  const uint64_t piece_weights_;
  CheckedRows checked_;
};

/// Layers first .. end - 1, over and over, decoded by turns into two slots of the caller's, one while the caller works
/// on the other. The stream's thread works only between resume() and pause(): a session that is not inside a call uses
/// neither the caller's threads nor his reader.
class LayerStream {
 public:
  /// Decodes pieces 0, 1, ... of a layer into a slot. True: it was the layer's last one. Between two pieces the thread
  /// can be paused.
  using DecodePiece = std::function<Result<bool>(uint32_t layer, uint32_t piece, uint32_t slot)>;

  /// Begins paused. What the slots are outlives the stream. errors: kOutOfMemory (no thread)
  static Result<std::unique_ptr<LayerStream>> start(uint32_t first, uint32_t end, DecodePiece decode);
  ~LayerStream();
  LayerStream(const LayerStream&) = delete;
  LayerStream& operator=(const LayerStream&) = delete;

  /// Lets the thread go on where it was. A layer that failed and that nobody has acquired is decoded again.
  void resume();
  /// Waits for the piece at hand. Then the thread calls nobody until resume().
  void pause();
  /// From resume() to pause(). No stream: nothing.
  using Running = nwc::Running<LayerStream>;

  /// Waits for a layer, while the stream runs; 0 or 1: where it lies. The next one in order is on its way already; for
  /// any other, also for one that failed or that the caller could not finish with, the stream starts again there.
  Result<uint32_t> acquire(uint32_t layer);
  /// Gives the acquired slot back.
  void release();

 private:
  struct Slot {
    bool full = false;
    uint32_t layer = 0;
    Status status;
  };
  LayerStream(uint32_t first, uint32_t end, DecodePiece decode);
  void work();
  void restart_at(uint32_t layer);

  const uint32_t first_, end_;
  const DecodePiece decode_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Slot slots_[2];
  uint32_t next_layer_;      ///< that the thread decodes
  uint32_t next_piece_ = 0;  ///< of it
  uint32_t fill_ = 0;        ///< slot that it decodes into
  uint32_t drain_ = 0;       ///< slot that acquire() returns
  uint32_t starts_ = 0;      ///< what the thread decodes for an earlier one is of no use
  bool failed_ = false;      ///< a slot holds an error: the thread waits until acquire() has reported it
  bool running_ = false;
  bool busy_ = false;  ///< the thread is inside decode_
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nwc
