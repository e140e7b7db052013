// Known answers through the kernels, before anything else goes through them: drivers lie.
#pragma once

#include <map>

#include "runtime/base/log.h"
#include "runtime/decoder/decoder.h"
#include "runtime/decoder/decoder_vulkan_kernels.h"

namespace nwc {

class VulkanSelfTest {
 public:
  /// num_codec_tables: how many tables lie in front of known_tables() in the device's buffer.
  VulkanSelfTest(VulkanKernels& kernels, const CodecRecord& codec, uint32_t num_codec_tables, const Logger& log,
                 uint32_t quarantine_mask);

  /// Tables that VulkanKernels::create takes as `extra`.
  static std::vector<AliasTable> known_tables();

  /// Synthesis with the codec's own network, and both conversions, against the CPU. Errors: kNoDevice, kDevice...
  Status check_synthesis(const RansVariant& variant);
  Status check_conversion();
  /// Does the variant decode the known tile? Asked once; a wrong answer is logged and remembered.
  bool works(const RansVariant& variant);

 private:
  struct Window {
    WindowLayout layout;
    TensorContexts contexts;
    CodedTensor coded;
    std::vector<uint8_t> synthesis_levels;
    uint32_t synthesis_level_at = 0;
  };
  WindowRun make_run(const RansVariant& variant) const;
  Status run(const WindowRun& run);
  Status check_variant(const RansVariant& variant);

  VulkanKernels& kernels_;
  const CodecRecord& codec_;
  Logger log_;
  uint32_t quarantine_mask_;
  Window window_;
  std::map<RansVariant, bool> known_;
};

}  // namespace nwc
