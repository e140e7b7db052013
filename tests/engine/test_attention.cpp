// Attention of one token against double precision, in one piece and in several, at any number of threads; how a
// device's is divided.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "runtime/base/half.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/attention_split.h"

namespace nwc {
namespace {

struct Case {
  uint32_t window = 0;
  float softcap = 0;
  Dtype dtype = Dtype::kF32;
};

TEST(Attention, OneTokenMatchesDoublePrecisionAtEveryLength) {
  constexpr uint32_t kContext = 1500, kHeads = 6, kKvHeads = 2, kDim = 40, kGroup = kHeads / kKvHeads;
  constexpr size_t kWidth = size_t{kHeads + 2 * kKvHeads} * kDim;
  for (const Case& c : {Case{}, Case{0, 0, Dtype::kF16}, Case{0, 3.0f, Dtype::kF32}, Case{700, 0, Dtype::kF32},
                        Case{1001, 2.0f, Dtype::kF16}}) {
    ModelLayout layout;
    BlockSpec block;
    block.num_heads = kHeads;
    block.num_kv_heads = kKvHeads;
    block.head_dim = kDim;
    block.window = c.window;
    block.attention_softcap = c.softcap;
    layout.model.blocks = {block};
    layout.layers.resize(1);
    const KernelTable& kernels = kernel_table(detect_cpu_level());
    HostMemory memory;
    KvCache cache;
    ASSERT_TRUE(cache.allocate(layout, kContext, 1, c.dtype, &memory).ok());
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    std::vector<float> rows(kContext * kWidth);
    for (float& v : rows) v = c.dtype == Dtype::kF16 ? f16_to_f32(f32_to_f16(normal(rng))) : normal(rng);
    const size_t stride = attention_scratch(layout, kContext, 1);
    for (uint32_t position = 0; position < kContext; ++position) {
      const float* row = rows.data() + position * kWidth;
      const float* key = row + size_t{kHeads} * kDim;
      cache.store(kernels, 0, position, key, key + size_t{kKvHeads} * kDim);
      const bool checked = position % 97 == 5 || position == 383 || position == 384 || position + 1 == kContext;
      if (!checked) continue;
      std::vector<float> first;
      for (const uint32_t threads : {1u, 2u, 5u}) {
        const auto runner = make_thread_pool(threads);
        std::vector<float> scratch(stride * runner->num_workers(), std::nanf("")), out(size_t{kHeads} * kDim);
        attend(kernels, *runner, block, cache, 0, position, 1, row, kWidth, nullptr, out.data(), scratch.data(),
               stride);
        if (first.empty()) first = out;
        ASSERT_EQ(out, first) << "threads change the result at position " << position;
      }
      const uint32_t begin = c.window == 0 || position + 1 <= c.window ? 0 : position + 1 - c.window;
      for (uint32_t h = 0; h < kHeads; ++h) {
        std::vector<double> score, expected(kDim);
        double largest = -1e30, total = 0;
        for (uint32_t p = begin; p <= position; ++p) {
          const float* k = rows.data() + p * kWidth + size_t{kHeads + h / kGroup} * kDim;
          double s = 0;
          for (uint32_t d = 0; d < kDim; ++d) s += double{row[h * kDim + d]} * double{k[d]};
          s *= double{score_scale(block)};
          if (c.softcap != 0) s = double{c.softcap} * std::tanh(s / double{c.softcap});
          score.push_back(s);
          largest = std::max(largest, s);
        }
        for (double& s : score) total += s = std::exp(s - largest);
        for (uint32_t p = begin; p <= position; ++p) {
          const float* v = rows.data() + p * kWidth + size_t{kHeads + kKvHeads + h / kGroup} * kDim;
          for (uint32_t d = 0; d < kDim; ++d) expected[d] += score[p - begin] / total * double{v[d]};
        }
        for (uint32_t d = 0; d < kDim; ++d) {
          ASSERT_NEAR(first[h * kDim + d], expected[d], 3e-6) << "position " << position << " window " << c.window;
        }
      }
    }
  }
}

TEST(AttentionSplit, TilesHoldAllQueriesAndPiecesAllPositions) {
  struct Shape {
    uint32_t heads, kv_heads, dim, window;
  };
  bool split_before = false, whole_before = false;
  for (const Shape& s : {Shape{1, 1, 4, 0}, Shape{9, 3, 64, 0}, Shape{32, 8, 128, 0}, Shape{4, 1, 256, 512},
                         Shape{71, 1, 64, 0}, Shape{64, 64, 128, 0}, Shape{12, 4, 132, 1}, Shape{40, 2, 80, 3000}}) {
    BlockSpec block;
    block.num_heads = s.heads;
    block.num_kv_heads = s.kv_heads;
    block.head_dim = s.dim;
    block.window = s.window;
    constexpr uint32_t kContext = 40000, kBatch = 300;
    const uint64_t most = attention_partial_bytes(block, kContext, kBatch);
    for (const uint32_t tokens : {1u, 2u, 5u, 16u, 17u, kBatch}) {
      for (const uint32_t position : {0u, 1u, 63u, 64u, 255u, 256u, 1000u, 4095u, 4096u, kContext - kBatch}) {
        const AttentionSplit split = split_attention(block, tokens, position, most);
        EXPECT_GE(split.head_tiles * split.tile_heads, s.heads / s.kv_heads);
        EXPECT_LT((split.head_tiles - 1) * split.tile_heads, s.heads / s.kv_heads);
        EXPECT_GE(split.token_tiles * split.tile_tokens, tokens);
        EXPECT_LT((split.token_tiles - 1) * split.tile_tokens, tokens);
        EXPECT_LE(split.tile_heads * split.tile_tokens, split.queries);
        EXPECT_LE(split.queries, 8u);  // what the kernel has shared memory for
        EXPECT_EQ(split.origin, oldest_seen(block, position));
        const uint64_t positions = uint64_t{position} + tokens - split.origin;
        EXPECT_GE(uint64_t{split.pieces} * split.piece, positions);
        EXPECT_LT(uint64_t{split.pieces - 1} * split.piece, positions);
        EXPECT_EQ(split.piece % 64, 0u);
        EXPECT_LE(split.partial_bytes(block, tokens), most);
        EXPECT_EQ(split_attention(block, tokens, position, 0).pieces, 1u);
        (split.pieces > 1 ? split_before : whole_before) = true;
      }
    }
  }
  EXPECT_TRUE(split_before && whole_before);
}

}  // namespace
}  // namespace nwc
