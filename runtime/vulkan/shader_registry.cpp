#include "runtime/vulkan/shader_registry.h"

namespace nwc {
namespace {

#include "shaders/convert_half.spv.h"
#include "shaders/rans_decode_ballot.spv.h"
#include "shaders/rans_decode_shared.spv.h"
#include "shaders/synthesis_linear.spv.h"
#include "shaders/synthesis_mlp.spv.h"

}  // namespace

std::span<const uint32_t> shader_code(ShaderId id) {
  switch (id) {
    case ShaderId::kRansBallot: return rans_decode_ballot_spv;
    case ShaderId::kRansShared: return rans_decode_shared_spv;
    case ShaderId::kSynthesisLinear: return synthesis_linear_spv;
    case ShaderId::kSynthesisMlp: return synthesis_mlp_spv;
    case ShaderId::kConvertHalf: return convert_half_spv;
  }
  return {};
}

const char* shader_name(ShaderId id) {
  switch (id) {
    case ShaderId::kRansBallot: return "rans_decode_ballot";
    case ShaderId::kRansShared: return "rans_decode_shared";
    case ShaderId::kSynthesisLinear: return "synthesis_linear";
    case ShaderId::kSynthesisMlp: return "synthesis_mlp";
    case ShaderId::kConvertHalf: return "convert_half";
  }
  return "unknown";
}

}  // namespace nwc
