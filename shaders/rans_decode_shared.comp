#version 450
// Tiles to values, to weights, or into products: common/rans_shared.glsl.
#extension GL_GOOGLE_include_directive : require
#include "common/rans_shared.glsl"
