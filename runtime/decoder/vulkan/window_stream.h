// Tensors through the device, many windows to a submission: while the device works on one submission, the host reads,
// checks and packs the next.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "runtime/base/log.h"
#include "runtime/decoder/vulkan/codec_kernels.h"
#include "runtime/decoder/vulkan/kernel_self_test.h"

namespace nwc {

/// Rows of a tensor that are to be decoded, packed, to the host's or to the device's memory.
struct DecodeJob {
  size_t tensor = 0;
  uint64_t row_begin = 0, row_end = 0;
  bool values_only = false;  ///< reconstruction indices, [row block][column][16], of whole bands of tiles
  Dtype dtype = Dtype::kF32;
  bool check_crc = true;
  uint8_t* host = nullptr;  ///< or:
  BufferView device;        ///< values: from a multiple of 32 bytes on; raw tensors go to the device only
};

class WindowStream {
 public:
  static constexpr size_t kNumSlots = 2;

  /// budget_bytes: of both slots together.
  static Result<std::unique_ptr<WindowStream>> create(const NwcFile& file, Runner& runner, VulkanDevice& device,
                                                      PipelineCache& pipelines, uint64_t budget_bytes);
  /// Sets the codec's tables and kernels, which coded tensors need. They must outlive the stream.
  void set_codec(const DecodeTables& tables, VulkanKernels& kernels, VulkanSelfTest& self_test) {
    tables_ = &tables;
    kernels_ = &kernels;
    self_test_ = &self_test;
  }

  /// All jobs, in order. `shrink`: windows and submissions of so much less than the budget allows, a power of two.
  /// Errors: kDevice, of the kernel variant last_variant(); kOutOfMemory, kDeviceLost; those of the data, as the CPU
  /// gives them, of the first bad tile; kCancelled.
  Status run(std::span<const DecodeJob> jobs, uint32_t shrink, const Progress& progress);
  /// Whether the device is to take the time of the kernels of following runs, and of the last run, copies left out.
  void set_timed(bool timed) { timed_ = timed; }
  double kernel_seconds() const { return kernel_seconds_; }
  /// Whether run() with such a `shrink` still makes a difference.
  bool can_shrink(uint32_t shrink) const;
  const std::optional<RansVariant>& last_variant() const { return last_variant_; }

  WindowSlot& slot(size_t i) { return *slots_[i]; }
  uint64_t device_bytes() const;
  uint64_t host_bytes() const;
  /// The most that a stream of such a budget comes to, host and device, side information of tensors included.
  static uint64_t max_bytes(const NwcFile& file, uint64_t budget_bytes);

 private:
  WindowStream(const NwcFile& file, Runner& runner) : file_(file), runner_(runner) {}

  /// A tensor at work; what its windows share.
  struct Source {
    const DecodeJob* job = nullptr;
    CodedTensor coded;
    TensorContexts contexts;
    WindowPath path;
    RansVariant variant;
    Bytes raw;  ///< of a raw tensor, from the first element asked for
    std::vector<uint8_t> raw_storage;
  };
  /// One window, or numbers of a raw tensor.
  struct Piece {
    std::shared_ptr<Source> source;
    std::unique_ptr<WindowLayout> layout;
    uint64_t raw_begin = 0, raw_count = 0;
    size_t tiles() const { return layout == nullptr ? 0 : layout->tiles.size(); }
  };
  struct Submission {
    std::vector<Piece> pieces;
    std::vector<WindowRun> runs;
    uint64_t bytes = 0, weights = 0;
  };

  Status feed(std::span<const DecodeJob> jobs);
  Result<std::shared_ptr<Source>> open(const DecodeJob& job);
  Status add_windows(const std::shared_ptr<Source>& source);
  Status add_raw(const std::shared_ptr<Source>& source);
  /// Adds to the next submission, which is sent first if it would get too large.
  Status add(Piece piece, WindowRun run);
  Status flush();
  Status pack(Submission& submission, WindowSlot& slot);
  /// Waits for the oldest submission in flight, checks its tiles, delivers its results.
  Status finish_oldest();
  Status check_statuses(const Submission& submission, const WindowSlot& slot);
  void deliver(const Submission& submission, const WindowSlot& slot) const;

  const NwcFile& file_;
  Runner& runner_;
  const DecodeTables* tables_ = nullptr;
  VulkanKernels* kernels_ = nullptr;
  VulkanSelfTest* self_test_ = nullptr;
  uint64_t slot_bytes_ = 0;                                ///< budget of a slot
  uint64_t limit_bytes_ = 0, limit_weights_ = UINT64_MAX;  ///< of a submission of the current run
  uint32_t shrink_ = 1;
  bool timed_ = false;
  double kernel_seconds_ = 0;
  Progress progress_;
  uint64_t done_ = 0, total_ = 0;
  std::optional<RansVariant> last_variant_;
  Submission next_;
  size_t next_slot_ = 0;
  std::deque<std::pair<size_t, Submission>> in_flight_;  ///< slot, what it works on
  std::array<std::unique_ptr<WindowSlot>, kNumSlots> slots_;
};

}  // namespace nwc
