// The known-answer test of the layer kernels: a device that computes wrongly must not get the model.
#pragma once

#include "runtime/engine/layer_ops_vulkan.h"

namespace nwc {

/// Sends small numbers through every kernel of shaders/ that LayerOps dispatches, in the variants that a session with
/// these types and blocks uses, and compares with plain loops on the host.
/// errors: kDevice, naming the kernel that answers wrongly; those of LayerOps
Status check_layer_ops(VulkanDevice& device, PipelineCache& pipelines, std::span<const BlockSpec> blocks,
                       Dtype weight_dtype, Dtype kv_dtype);

/// Likewise, the kernels for weights that are integers; shrinks: those of codecs that shrink. errors: kUnsupported
/// (a kernel answers wrongly), those of LayerOps
Status check_integer_ops(VulkanDevice& device, PipelineCache& pipelines, bool shrinks);

}  // namespace nwc
