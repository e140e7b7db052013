// The least struct_size that a caller may state for each struct of nwc.h: the size in the first version. These sizes
// never change, so that a caller compiled with that version's header keeps working when fields are added. Structs with
// pointers have the second size where addresses have 32 bits.
#pragma once

#include <cstdint>

#include "runtime/include/nwc/nwc.h"

namespace nwc::c_api {

/// Only the structs that are listed below can be read or written.
template <typename T>
struct FirstSize;

#define NWC_FIRST_SIZE(type, bytes)                         \
  template <>                                               \
  struct FirstSize<type> {                                  \
    static constexpr uint32_t value = bytes;                \
    static_assert(value <= sizeof(type) && value % 4 == 0); \
  }
NWC_FIRST_SIZE(nwc_read_callbacks, sizeof(void*) == 8 ? 32 : 24);
NWC_FIRST_SIZE(nwc_model_info, 104);
NWC_FIRST_SIZE(nwc_tensor_info, 136);
NWC_FIRST_SIZE(nwc_layer_info, 48);
NWC_FIRST_SIZE(nwc_device_info, 528);
NWC_FIRST_SIZE(nwc_vulkan_objects, sizeof(void*) == 8 ? 80 : 44);
NWC_FIRST_SIZE(nwc_decoder_params, sizeof(void*) == 8 ? 56 : 40);
NWC_FIRST_SIZE(nwc_session_params, sizeof(void*) == 8 ? 88 : 72);
NWC_FIRST_SIZE(nwc_session_plan, 112);
NWC_FIRST_SIZE(nwc_expert_stats, 56);
NWC_FIRST_SIZE(nwc_encoder_info, 40);
NWC_FIRST_SIZE(nwc_generate_params, 24);
NWC_FIRST_SIZE(nwc_session_estimate, 80);
#undef NWC_FIRST_SIZE

}  // namespace nwc::c_api
