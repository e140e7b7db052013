#version 450
// The same as rans_decode_ballot.comp, except that each lane writes its halves by itself.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_16bit_storage : require
#define NWC_STORAGE16
#include "common/rans_ballot.glsl"
