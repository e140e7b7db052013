#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "trainer/nn/random.h"
#include "trainer/search/viterbi.h"

namespace nwc {
namespace {

std::vector<BranchMetrics> random_metrics(size_t count, uint32_t most, uint64_t seed) {
  Random random({seed});
  std::vector<BranchMetrics> out(count);
  for (BranchMetrics& m : out) {
    for (uint16_t& v : m.of_set) v = static_cast<uint16_t>(random.uniform() * (most + 1));
  }
  return out;
}

/// Every sample has one cheap set; or nothing but the dearest; or sets of one bank only.
std::vector<std::vector<BranchMetrics>> hard_metrics(size_t count) {
  std::vector<BranchMetrics> one_cheap(count, BranchMetrics{{kMaxBranchMetric, kMaxBranchMetric, kMaxBranchMetric, 0}});
  std::vector<BranchMetrics> dear(
      count, BranchMetrics{{kMaxBranchMetric, kMaxBranchMetric, kMaxBranchMetric, kMaxBranchMetric}});
  std::vector<BranchMetrics> bank(count, BranchMetrics{{kMaxBranchMetric, kMaxBranchMetric, 0, 0}});
  std::vector<BranchMetrics> alternating = bank;
  for (size_t i = 0; i < count; i += 2) alternating[i] = {{0, 0, kMaxBranchMetric, kMaxBranchMetric}};
  return {one_cheap, dear, bank, alternating};
}

/// What the path costs that the decisions lead back along; where it begins.
std::pair<uint64_t, uint16_t> trace(const Trellis& t, std::span<const BranchMetrics> samples,
                                    const std::vector<uint8_t>& decisions, uint16_t state) {
  uint64_t sum = 0;
  for (size_t i = samples.size(); i-- > 0;) {
    const uint32_t parity = decisions[i * decision_bytes(t) + state / 8] >> state % 8 & 1u;
    const uint16_t from = previous_state(t, state, parity);
    EXPECT_EQ(t.next(from, static_cast<int32_t>(parity)), state);
    sum += samples[i].of_set[2 * Trellis::bank(from) + parity];
    state = from;
  }
  return {sum, state};
}

/// The least cost of all paths, forward and without any rescaling.
uint64_t least_cost(const Trellis& t, std::span<const BranchMetrics> samples) {
  constexpr uint64_t kNone = UINT64_MAX / 2;
  std::vector<uint64_t> cost(t.num_states(), kNone);
  cost[0] = 0;
  for (const BranchMetrics& m : samples) {
    std::vector<uint64_t> after(cost.size(), kNone);
    for (uint32_t s = 0; s < cost.size(); ++s) {
      for (int32_t parity = 0; parity < 2; ++parity) {
        const auto from = static_cast<uint16_t>(s);
        uint64_t& to = after[t.next(from, parity)];
        to = std::min(to, cost[s] + m.of_set[2 * Trellis::bank(from) + static_cast<uint32_t>(parity)]);
      }
    }
    cost = std::move(after);
  }
  return *std::min_element(cost.begin(), cost.end());
}

TEST(Viterbi, EveryKernelFindsTheBestPath) {
  for (const Trellis& t : kTrellises) {
    for (const size_t count : {1u, 5u, 17u, 300u}) {
      std::vector<std::vector<BranchMetrics>> cases = hard_metrics(count);
      for (const uint32_t most : {1u, 700u, uint32_t{kMaxBranchMetric}})
        cases.push_back(random_metrics(count, most, 7 * count + t.bits));
      for (size_t c = 0; c < cases.size(); ++c) {
        SCOPED_TRACE(testing::Message() << "bits " << +t.bits << ", samples " << count << ", case " << c);
        const uint64_t least = least_cost(t, cases[c]);
        std::vector<uint8_t> first;
        uint16_t first_state = 0;
        for (const CpuLevel level : kCpuLevels) {
          if (level > detect_cpu_level()) continue;
          std::vector<uint8_t> decisions(count * decision_bytes(t), 0xa5);
          const uint16_t state = viterbi_forward(t, level)(t, cases[c], decisions.data());
          const auto [cost, begin] = trace(t, cases[c], decisions, state);
          EXPECT_EQ(begin, 0);
          EXPECT_EQ(cost, least) << cpu_level_name(level);
          if (level == CpuLevel::kScalar) first = decisions, first_state = state;
          EXPECT_EQ(state, first_state) << cpu_level_name(level);
          EXPECT_EQ(decisions, first) << cpu_level_name(level);
        }
      }
    }
  }
}

TEST(Viterbi, NothingToCodeEndsWhereItBegins) {
  for (const Trellis& t : kTrellises) {
    for (const CpuLevel level : kCpuLevels) {
      if (level <= detect_cpu_level()) {
        EXPECT_EQ(viterbi_forward(t, level)(t, {}, nullptr), 0);
      }
    }
  }
}

}  // namespace
}  // namespace nwc
