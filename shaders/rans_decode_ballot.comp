#version 450
// Tiles to values, to weights, or into products: common/rans_ballot.glsl.
#extension GL_GOOGLE_include_directive : require
#include "common/rans_ballot.glsl"
