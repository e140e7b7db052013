// A codec's network as its kernels take it: its numbers, and how they are specialised for it and the device.
#pragma once

#include <vector>

#include "runtime/format/codec_record.h"
#include "runtime/vulkan/device.h"
#include "runtime/vulkan/pipeline.h"

namespace nwc {

/// In the layout that shaders/common/synthesis.glsl describes.
std::vector<float> pack_network(const CodecRecord& codec);

struct NetworkKernels {
  PipelineKey synthesis;  ///< synthesis_mlp, but for its last constant, the output
  PipelineKey product;    ///< synthesis_mlp_product
  uint32_t chunks = 64;   ///< of a workgroup, an even number
};
NetworkKernels network_kernels(const Network& network, const DeviceInfo& device);
/// NetworkKernels::chunks on any device is this at least.
uint32_t least_network_chunks(const Network& network);

}  // namespace nwc
