// Memory and command buffer of one submission: several windows, and pieces of raw tensors.
#pragma once

#include <memory>
#include <span>

#include "runtime/decoder/decoder_vulkan_window.h"
#include "runtime/vulkan/submit.h"

namespace nwc {

/// Which rANS kernel, and how many tables it copies to shared memory (0: it reads them from the buffer).
struct RansVariant {
  bool ballot = false;
  uint32_t shared_tables = 0;
  bool operator<(const RansVariant& o) const {
    return ballot != o.ballot ? ballot < o.ballot : shared_tables < o.shared_tables;
  }
  /// "ballot, 12 tables in shared memory".
  std::string name() const;
};

/// One window of a submission, or bytes that the host has decoded.
struct WindowRun {
  const WindowLayout* layout = nullptr;  ///< none: `raw_bytes` go from input to `out` as they are
  const TensorContexts* contexts = nullptr;
  RansVariant variant;
  bool values_only = false;  ///< the result is the values instead of weights
  // Weights of the window's rows [row_begin, row_end), with columns' levels for the network at:
  uint64_t row_begin = 0, row_end = 0;
  uint32_t synthesis_level_at = 0;
  Dtype dtype = Dtype::kF32;
  uint64_t raw_bytes = 0;
  /// Where the weights go, from out.offset on (any multiple of 4), with so many elements from row to row; without a
  /// buffer they are read back, packed.
  BufferView out;
  uint64_t out_stride = 0;

  /// Bytes where the window's parts begin: in the upload buffer, the scratch memory, the readback buffer.
  struct Places {
    uint64_t upload = 0, input = 0, status = 0, values = 0, weights = 0, halves = 0;
    uint64_t status_back = 0, result_back = 0;
  } at;

  uint64_t input_bytes() const { return layout == nullptr ? raw_bytes : layout->total_words * 4; }
  uint64_t status_bytes() const { return layout == nullptr ? 0 : layout->tiles.size() * 4; }
  /// What is read back, without status words.
  uint64_t result_bytes() const;
  /// Upper estimate of what the run takes of a slot's memory.
  uint64_t slot_bytes() const;
};

/// Bytes of upload, scratch and readback memory that a weight of a window takes, its input apart.
uint32_t scratch_bytes_per_weight(bool values_only, Dtype dtype, bool read_back);

class WindowSlot {
 public:
  /// Holds at most budget_bytes of host and device memory together, unless one window alone needs more.
  static Result<std::unique_ptr<WindowSlot>> create(VulkanDevice& device, PipelineCache& pipelines,
                                                    uint64_t budget_bytes);

  /// Makes room and sets the runs' places. Not while the batch is in flight. Errors: kOutOfMemory, kDevice.
  Status prepare(std::span<WindowRun> runs);
  /// The host's view of a run's input, to be written before submission.
  MutableBytes input(const WindowRun& run) const {
    return upload_.mapped().subspan(static_cast<size_t>(run.at.upload), static_cast<size_t>(run.input_bytes()));
  }
  /// Begins the batch with the copies to the device.
  Status begin(std::span<const WindowRun> runs);
  /// Sends what has been recorded.
  Status submit();
  /// Waits for it. Afterwards the tiles' status words and the results of runs without `out` can be read.
  Status wait();
  std::span<const uint32_t> tile_status(const WindowRun& run) const;
  Bytes result(const WindowRun& run) const;

  CommandBatch& batch() { return *batch_; }
  const DeviceBuffer& scratch() const { return scratch_; }
  const DeviceBuffer& readback() const { return readback_; }
  uint64_t device_bytes() const { return scratch_.size(); }
  uint64_t host_bytes() const { return upload_.size() + readback_.size(); }

 private:
  WindowSlot(VulkanDevice& device, uint64_t budget) : device_(device), budget_(budget) {}
  Status reserve(uint64_t upload, uint64_t scratch, uint64_t readback);

  VulkanDevice& device_;
  uint64_t budget_;
  uint64_t status_bytes_ = 0, input_at_ = 0, window_input_bytes_ = 0;
  DeviceBuffer upload_, readback_;
  DeviceBuffer scratch_;  ///< status words, input, values, weights, halves of all windows
  // The batch goes first: it waits for what is in flight.
  std::unique_ptr<CommandBatch> batch_;
};

}  // namespace nwc
