// The steps that specs of blocks expand to, as text.
#include <gtest/gtest.h>

#include "runtime/graph/steps.h"

namespace nwc {
namespace {

TEST(Steps, OfLlama) {
  EXPECT_EQ(describe(block_steps(BlockSpec())),
            "normed = norm(residual) by the norm before attention\n"
            "qkv = qkv(normed)\n"
            "qkv = rotated queries and keys\n"
            "attended = attend(qkv)\n"
            "residual += output(attended)\n"
            "normed = norm(residual) by the norm before the MLP\n"
            "inner = gate_up(normed)\n"
            "inner = activate(inner)\n"
            "residual += down(inner)\n");
}

TEST(Steps, NormsOfOutputsComeBeforeTheSum) {
  BlockSpec gemma3;
  gemma3.norm_after = true;
  gemma3.qk_norm = QkNorm::kPerHead;
  EXPECT_EQ(describe(block_steps(gemma3)),
            "normed = norm(residual) by the norm before attention\n"
            "qkv = qkv(normed)\n"
            "qkv = norms of queries and keys\n"
            "qkv = rotated queries and keys\n"
            "attended = attend(qkv)\n"
            "branch = output(attended)\n"
            "branch = norm(branch) by the norm after attention\n"
            "residual += branch\n"
            "normed = norm(residual) by the norm before the MLP\n"
            "inner = gate_up(normed)\n"
            "inner = activate(inner)\n"
            "branch = down(inner)\n"
            "branch = norm(branch) by the norm after the MLP\n"
            "residual += branch\n");
}

/// Both branches read the block's input: the MLP's norm comes before attention is added.
TEST(Steps, ParallelBranches) {
  BlockSpec neox;
  neox.parallel = Parallel::kOwnNorm;
  neox.output_bias = neox.mlp_bias = true;
  const std::string steps = describe(block_steps(neox));
  EXPECT_LT(steps.find("by the norm before the MLP"), steps.find("residual += branch")) << steps;
  neox.parallel = Parallel::kSharedNorm;
  EXPECT_EQ(describe(block_steps(neox)).find("by the norm before the MLP"), std::string::npos);
}

TEST(Steps, WithoutNormsOfInputsAndWithoutPositions) {
  BlockSpec olmo2;
  olmo2.norm_before = false;
  olmo2.norm_after = true;
  olmo2.positions = Positions::kNone;
  const std::string steps = describe(block_steps(olmo2));
  EXPECT_EQ(steps.find("qkv = qkv(residual)"), 0u) << steps;
  EXPECT_EQ(steps.find("rotated"), std::string::npos) << steps;
  olmo2.temperature_beta = 0.1f;  // scales queries in the same step
  EXPECT_NE(describe(block_steps(olmo2)).find("rotated"), std::string::npos);
}

TEST(Steps, ScaledSums) {
  BlockSpec granite;
  granite.residual_scale = 0.5f;
  EXPECT_NE(describe(block_steps(granite)).find("residual += 0.500000 * branch"), std::string::npos);
}

}  // namespace
}  // namespace nwc
