#version 450
// Tiles to values or weights: common/rans_ballot.glsl, common/consume_weights.glsl.
#extension GL_GOOGLE_include_directive : require
#include "common/rans_ballot.glsl"
