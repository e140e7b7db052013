#version 450
// rans_decode_ballot.comp with a workgroup in place of a subgroup.
#extension GL_GOOGLE_include_directive : require
#define NWC_EMULATED_SUBGROUP
#include "../../../shaders/common/rans_ballot.glsl"
