// The compute kernels that the library carries, as SPIR-V by enum.
#pragma once

#include <cstdint>
#include <span>

namespace nwc {

// clang-format off
/// Enumerator and name of the file in shaders/.
#define NWC_SHADERS(X) \
  X(kRansBallot, rans_decode_ballot) X(kRansShared, rans_decode_shared) \
  X(kRansBallot16, rans_decode_ballot16) X(kRansShared16, rans_decode_shared16) \
  X(kProductBallot, rans_product_ballot) X(kProductShared, rans_product_shared) \
  X(kSynthesisMlp, synthesis_mlp) X(kSynthesisMlpProduct, synthesis_mlp_product) X(kConvertHalf, convert_half) \
  X(kIntegersPack, integers_pack) X(kIntegersRequantize, integers_requantize) X(kFusedReduce, fused_reduce) \
  X(kEmbedRows, embed_rows) X(kNormRows, norm_rows) X(kMatmulFew, matmul_few) X(kMatmulMany, matmul_many) \
  X(kIntegersRows, integers_rows) X(kIntegersFew, integers_few) X(kIntegersMany, integers_many) \
  X(kIntegersFewDot, integers_few_dot) X(kIntegersManyDot, integers_many_dot) \
  X(kRopeStore, rope_store) X(kAttention, attention) X(kAttentionReduce, attention_reduce) \
  X(kActivate, activate) X(kAddRows, add_rows) \
  X(kGatherRows, gather_rows) X(kCombineRows, combine_rows) X(kShareRows, share_rows)
// clang-format on

enum class ShaderId : uint32_t {
#define NWC_SHADER_ID(id, file) id,
  NWC_SHADERS(NWC_SHADER_ID)
#undef NWC_SHADER_ID
};
/// Every kernel uses descriptor set 0 with at most this many storage buffers: what Vulkan guarantees.
constexpr uint32_t kShaderBuffers = 4;
constexpr uint32_t kPushConstantBytes = 128;

std::span<const uint32_t> shader_code(ShaderId id);
const char* shader_name(ShaderId id);

}  // namespace nwc
