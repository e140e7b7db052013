// The known-answer test of the layer kernels: a device that computes wrongly must not get the model.
#pragma once

#include "runtime/engine/layer_ops_vulkan.h"

namespace nwc {

/// Sends small numbers through every kernel of shaders/ that LayerOps dispatches, in the variants that a session with
/// these types and blocks uses, and compares with plain loops on the host.
/// errors: kDevice, naming the kernel that answers wrongly; those of LayerOps
Status check_layer_ops(VulkanDevice& device, PipelineCache& pipelines, std::span<const BlockSpec> blocks,
                       Dtype weight_dtype, Dtype kv_dtype);

/// Likewise, the kernels for weights that are integers, plain ones, those of codecs that shrink, and those with block
/// scales. Returns dot products where the device has them and they answer rightly; if they do not, the log says why,
/// and products are those of floating-point numbers. errors: kUnsupported (a kernel for which there is no other answers
/// wrongly), those of LayerOps
Result<IntegerProducts> choose_integer_products(VulkanDevice& device, PipelineCache& pipelines, bool plain,
                                                bool shrinking, bool requantized = false);

}  // namespace nwc
