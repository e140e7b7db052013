#include "runtime/vulkan/shader_registry.h"

namespace nwc {
namespace {

#include "shaders/activate.spv.h"
#include "shaders/add_rows.spv.h"
#include "shaders/attention.spv.h"
#include "shaders/attention_reduce.spv.h"
#include "shaders/combine_rows.spv.h"
#include "shaders/convert_half.spv.h"
#include "shaders/embed_rows.spv.h"
#include "shaders/fused_reduce.spv.h"
#include "shaders/gather_rows.spv.h"
#include "shaders/integers_few.spv.h"
#include "shaders/integers_few_dot.spv.h"
#include "shaders/integers_many.spv.h"
#include "shaders/integers_many_dot.spv.h"
#include "shaders/integers_pack.spv.h"
#include "shaders/integers_requantize.spv.h"
#include "shaders/integers_rows.spv.h"
#include "shaders/matmul_few.spv.h"
#include "shaders/matmul_many.spv.h"
#include "shaders/norm_rows.spv.h"
#include "shaders/rans_decode_ballot.spv.h"
#include "shaders/rans_decode_ballot16.spv.h"
#include "shaders/rans_decode_shared.spv.h"
#include "shaders/rans_decode_shared16.spv.h"
#include "shaders/rans_product_ballot.spv.h"
#include "shaders/rans_product_shared.spv.h"
#include "shaders/rope_store.spv.h"
#include "shaders/share_rows.spv.h"
#include "shaders/synthesis_mlp.spv.h"
#include "shaders/synthesis_mlp_product.spv.h"

struct Shader {
  const char* name;
  std::span<const uint32_t> code;
};
constexpr Shader kShaders[] = {
#define NWC_SHADER(id, file) {#file, file##_spv},
    NWC_SHADERS(NWC_SHADER)
#undef NWC_SHADER
};

}  // namespace

std::span<const uint32_t> shader_code(ShaderId id) { return kShaders[static_cast<uint32_t>(id)].code; }
const char* shader_name(ShaderId id) { return kShaders[static_cast<uint32_t>(id)].name; }

}  // namespace nwc
