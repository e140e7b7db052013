// Attention of one token against double precision, in one piece and in several, at any number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "runtime/base/half.h"
#include "runtime/engine/attention.h"

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
    KvCache cache;
    uint64_t counter = 0;
    ASSERT_TRUE(cache.allocate(layout, kContext, 1, c.dtype, &counter).ok());
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
        attend(kernels, *runner, block, cache, 0, position, 1, row, kWidth, out.data(), scratch.data(), stride);
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

}  // namespace
}  // namespace nwc
