// The start-up self-test. It passes tiles with known answers through the kernels before anything else goes through
// them, because drivers have faults.
#pragma once

#include <map>
#include <optional>

#include "runtime/base/log.h"
#include "runtime/decoder/decoder.h"
#include "runtime/decoder/vulkan/codec_kernels.h"
#include "runtime/decoder/vulkan/known_tile.h"

namespace nwc {

class NetworkSynthesis;

class VulkanSelfTest {
 public:
  /// num_codec_tables: how many tables lie in front of extra_tables() in the device's buffer.
  VulkanSelfTest(VulkanKernels& kernels, WindowSlot& slot, VulkanDevice& device, const CodecRecord& codec,
                 uint32_t num_codec_tables, const VulkanOptions& options, const Logger& log);

  /// Tables that VulkanKernels::create takes as `extra`.
  static std::vector<AliasTable> extra_tables();

  /// A network codec's synthesis from values that the variant gives, asked once for each dtype, and the conversions
  /// alone, against the CPU. Errors: kNoDevice, kDevice...
  Status check_network(const RansVariant& variant, Dtype dtype);
  Status check_conversion();
  /// The network's product kernel and the sum of its partial results, asked once. Errors: kNoDevice, kDevice...
  Status check_network_product(NetworkSynthesis& network);
  /// The variant for a tensor with that many tables in use; nullopt if none works. batch: vectors of a product's
  /// kernel.
  std::optional<RansVariant> choose(size_t used_tables, Consumer consumer, uint32_t batch = 1);
  /// Whether the variant decodes the known tiles. It is tried once; a wrong answer is logged and remembered.
  bool works(const RansVariant& variant);
  /// Gives the variant up from now on; `why` goes to the log.
  void quarantine(const RansVariant& variant, const std::string& why);

 private:
  /// A known tile as a window of its own.
  struct Window {
    KnownTile tile;
    CodedTensor coded;
    TensorContexts contexts;
    WindowLayout layout;
    std::vector<uint8_t> synthesis_levels;
    uint32_t synthesis_level_at = 0;
  };
  Window make_window(KnownTile tile, uint32_t num_codec_tables) const;
  void pack(const Window& window, const RansVariant& variant, MutableBytes input) const;
  static WindowRun make_run(const Window& window, const RansVariant& variant);
  static WindowRun make_weights_run(const Window& window, const RansVariant& variant, bool network, Dtype dtype);
  /// Runs the window through the slot, which holds status and result afterwards.
  Status run(const Window& window, WindowRun* run);
  Status check_variant(const Window& window, const RansVariant& variant);
  Status check_product(const Window& window, const RansVariant& variant);
  /// A product of rows of a known tile with x [vectors][kKnownCols], whose partial results have been recorded.
  struct ProductRun {
    uint32_t vectors, row_begin, row_end, bands = 1;
    std::vector<float> x{};
    DeviceBuffer partials{};
  };
  Result<DeviceBuffer> partials_for(const ProductRun& run) const;
  /// Adds them up and submits; for columns of these levels of a codec.
  Status check_sums(const Window& window, const ProductRun& run, const DeviceBuffer& input, const CodecRecord& codec,
                    std::span<const uint8_t> levels);
  /// The result of a weights' run, for columns of these levels of a codec.
  Status check_weights(const Window& window, const WindowRun& run, const CodecRecord& codec,
                       std::span<const uint8_t> levels) const;

  VulkanKernels& kernels_;
  WindowSlot& slot_;
  VulkanDevice& device_;
  const CodecRecord& codec_;
  VulkanOptions::Variant forced_;
  uint32_t quarantine_mask_;
  Logger log_;
  Window scalar_, trellis_;
  std::map<RansVariant, bool> known_;
  std::map<Dtype, bool> known_networks_;  ///< true for types that the network has answered rightly
  bool known_network_product_ = false;
};

}  // namespace nwc
