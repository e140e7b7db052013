// Numbers shared with C++; tests/vulkan/test_shader_constants.cpp compares them with runtime/format/constants.h,
// runtime/codec (decode_tables.h, fused_product.h) and runtime/decoder/vulkan/window_layout.h.
const uint kChunk = 16u;
const uint kNumLanes = 32u;
const uint kProbBits = 12u;
const uint kRansLow = 65536u;
const uint kFreeStates = 0x80000000u;  // in a tile record's number of words
const uint kBuckets = 128u;
const uint kBucketSlotsLog2 = 5u;

// A tile's record in the window's input: payload (index of its first u32), number of 16-bit words, first column and
// width, first row block and number of row blocks, all within the window.
const uint kTileRecordWords = 6u;

// Results of decoding a tile.
const uint kTileOk = 0u;
const uint kTileTruncated = 1u;
const uint kTileChecksum = 2u;
const uint kTileCorrupt = 3u;
const uint kTileSubgroupSize = 4u;

// Vectors that a product takes at a time.
const uint kMaxVectors = 8u;

// Uses of a tile's values.
const uint kConsumeNothing = 0u;
const uint kConsumeValues = 1u;
const uint kConsumeF32 = 2u;
const uint kConsumeF16 = 3u;
const uint kConsumeBf16 = 4u;
const uint kConsumeProduct = 5u;
