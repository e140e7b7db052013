// The compute kernels that the library carries, as SPIR-V by enum.
#pragma once

#include <cstdint>
#include <span>

namespace nwc {

enum class ShaderId : uint32_t {
  kRansBallot = 0,
  kRansShared = 1,
  kSynthesisLinear = 2,
  kSynthesisMlp = 3,
  kConvertHalf = 4,
};
constexpr uint32_t kNumShaders = 5;

/// Every kernel uses descriptor set 0 with at most this many storage buffers: what Vulkan guarantees.
constexpr uint32_t kShaderBuffers = 4;
constexpr uint32_t kPushConstantBytes = 128;

std::span<const uint32_t> shader_code(ShaderId id);
const char* shader_name(ShaderId id);

}  // namespace nwc
