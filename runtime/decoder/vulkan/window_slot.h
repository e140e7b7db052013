// Memory and command buffer of one submission: several windows, and pieces of raw tensors.
#pragma once

#include <memory>
#include <span>

#include "runtime/decoder/vulkan/window_layout.h"
#include "runtime/decoder/vulkan/window_path.h"
#include "runtime/vulkan/submit.h"

namespace nwc {

/// One window of a submission, or bytes that the host has decoded.
struct WindowRun {
  const WindowLayout* layout = nullptr;  ///< none: `raw_bytes` go from input to `out` as they are
  const TensorContexts* contexts = nullptr;
  RansVariant variant;
  WindowPath path;
  // Weights are made of the window's rows [row_begin, row_end). A network reads the columns' levels from
  // synthesis_level_at on.
  uint64_t row_begin = 0, row_end = 0;
  uint32_t synthesis_level_at = 0;
  uint64_t raw_bytes = 0;
  /// The place of the weights: they begin at out.offset (a multiple of 4, or of 2 for halves in 16-bit storage), and
  /// rows are out_stride elements apart. Without a buffer the weights are read back, packed.
  BufferView out;
  uint64_t out_stride = 0;

  /// Bytes where the window's parts begin: in the upload buffer, the scratch memory, the readback buffer.
  struct Places {
    uint64_t upload = 0, input = 0, status = 0, values = 0, floats = 0, halves = 0;
    uint64_t status_back = 0, result_back = 0;
  } at;

  uint64_t input_bytes() const { return layout == nullptr ? raw_bytes : layout->total_words * 4; }
  uint64_t status_bytes() const { return layout == nullptr ? 0 : layout->tiles.size() * 4; }
  /// Bytes that are read back, without status words.
  uint64_t result_bytes() const;
  /// Upper estimate of what the run takes of a slot's memory.
  uint64_t slot_bytes() const;
};

class WindowSlot {
 public:
  /// Holds at most budget_bytes of host and device memory together, unless one window alone needs more.
  static Result<std::unique_ptr<WindowSlot>> create(VulkanDevice& device, PipelineCache& pipelines,
                                                    uint64_t budget_bytes, DeviceQueue* queue = nullptr);

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
  // The parts of the memory that kernels see of a run.
  BufferView input_view(const WindowRun& run) const;
  BufferView status_view(const WindowRun& run) const { return {&scratch_, run.at.status, run.status_bytes()}; }
  BufferView values_view(const WindowRun& run) const { return weights_part(run.at.values, 2, run); }
  BufferView floats_view(const WindowRun& run) const { return weights_part(run.at.floats, 4, run); }
  BufferView halves_view(const WindowRun& run) const { return weights_part(run.at.halves, 2, run); }
  BufferView result_view(const WindowRun& run) const { return {&readback_, run.at.result_back, run.result_bytes()}; }
  const DeviceBuffer& scratch() const { return scratch_; }
  const DeviceBuffer& readback() const { return readback_; }
  uint64_t device_bytes() const { return scratch_.size(); }
  uint64_t host_bytes() const { return upload_.size() + readback_.size(); }

 private:
  WindowSlot(VulkanDevice& device, uint64_t budget) : device_(device), budget_(budget) {}
  BufferView weights_part(uint64_t at, uint64_t size, const WindowRun& run) const {
    return {&scratch_, at, align_up(run.layout->num_weights() * size, 4)};
  }
  Status reserve(uint64_t upload, uint64_t scratch, uint64_t readback);

  VulkanDevice& device_;
  uint64_t budget_;
  uint64_t status_bytes_ = 0, input_at_ = 0, window_input_bytes_ = 0;
  DeviceBuffer upload_, readback_;
  DeviceBuffer scratch_;  ///< status words, input, values, f32 and halves of all windows
  // The batch goes first: it waits for what is in flight.
  std::unique_ptr<CommandBatch> batch_;
};

}  // namespace nwc
