// The kernels of one codec on one device: its buffers, the pipelines' constants, one window's run.
#pragma once

#include <memory>

#include "runtime/codec/decode_tables.h"
#include "runtime/decoder/decoder_vulkan_window.h"
#include "runtime/format/codec_record.h"
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

/// One window, whose input lies in the upload buffer.
struct WindowRun {
  const WindowLayout* layout = nullptr;
  const TensorContexts* contexts = nullptr;
  RansVariant variant;
  bool values_only = false;  ///< read back the values instead of weights
  // Weights of the window's rows [row_begin, row_end), with columns' levels for the network at:
  uint64_t row_begin = 0, row_end = 0;
  uint32_t synthesis_level_at = 0;
  Dtype dtype = Dtype::kF32;
};

class VulkanKernels {
 public:
  /// `extra`: further tables, which lie behind the codec's in the device's buffer (the self-test's).
  /// device and pipelines must outlive the kernels.
  static Result<std::unique_ptr<VulkanKernels>> create(VulkanDevice& device, PipelineCache& pipelines,
                                                       const CodecRecord& codec, const DecodeTables& tables,
                                                       const std::vector<AliasTable>& extra,
                                                       uint32_t tiles_per_workgroup);

  /// Windows of at most max_window_bytes that this device can take.
  WindowLimits limits(uint64_t max_window_bytes) const;
  /// Shared-memory tables to use for a tensor with `used` tables; 0 where they do not fit.
  uint32_t shared_tables(size_t used) const;

  /// Makes room for a window and returns the host's view of its input (total_words words). Errors: kOutOfMemory.
  Result<MutableBytes> prepare(const WindowRun& run);
  /// Errors: kDevice, kDeviceLost, kOutOfMemory. What the tiles came to is in tile_status().
  Status run(const WindowRun& run);
  /// After run(): [tiles] status words, and the bytes asked for: values (reconstruction indices) [blocks][width][16]
  /// i16, or rows in dtype.
  std::span<const uint32_t> tile_status() const { return tile_status_; }
  Bytes result() const { return result_; }

  /// The conversion kernel alone, for the self-test: f32 bit patterns in, halves out.
  Result<std::vector<uint16_t>> convert(std::span<const uint32_t> bits, Dtype dtype);

 private:
  VulkanKernels(VulkanDevice& device, PipelineCache& pipelines) : device_(device), pipelines_(pipelines) {}
  Status upload_constant(std::span<const uint8_t> bytes, DeviceBuffer* buffer);
  Status dispatch_rans(const WindowRun& run);
  Status dispatch_synthesis(const WindowRun& run, uint32_t first_block, uint32_t blocks, uint32_t rows);
  Status dispatch_convert(const DeviceBuffer& source, uint64_t count, Dtype dtype);

  VulkanDevice& device_;
  PipelineCache& pipelines_;
  std::unique_ptr<CommandBatch> batch_;
  uint32_t width_ = 0, num_levels_ = 0;
  double mac_per_weight_ = 0;
  uint32_t tiles_per_workgroup_ = 1;
  PipelineKey synthesis_;
  uint32_t chunks_per_group_ = 64;
  DeviceBuffer tables_, network_;
  DeviceBuffer upload_, readback_, input_, values_, weights_, halves_, status_;
  std::span<const uint32_t> tile_status_;
  Bytes result_;
};

}  // namespace nwc
