#version 450
// Tiles into products: common/rans_ballot.glsl, common/consume_product.glsl.
#extension GL_GOOGLE_include_directive : require
#define NWC_PRODUCT
#include "common/rans_ballot.glsl"
