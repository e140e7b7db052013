#version 450
// rans_decode_ballot16.comp with a workgroup in place of a subgroup.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_16bit_storage : require
#define NWC_STORAGE16
#define NWC_EMULATED_SUBGROUP
#include "../../../shaders/common/rans_ballot.glsl"
