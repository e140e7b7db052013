// Tensors that stand for others: which they are, how their sums are scaled up, and how near that comes.
#include <gtest/gtest.h>

#include "tests/test_paths.h"
#include "trainer/codec/identity_codec.h"
#include "trainer/plan/rate_control.h"
#include "trainer/plan/sample_plan.h"

namespace nwc::test {
namespace {

std::vector<SurveyedTensor> tensors(const std::vector<std::pair<uint64_t, uint64_t>>& shapes) {
  std::vector<SurveyedTensor> out;
  for (const auto& [m, n] : shapes) {
    SurveyedTensor& t = out.emplace_back();
    t.m = m;
    t.n = n;
  }
  return out;
}

TEST(SamplePlan, SamplesEveryTensorWhereTheBudgetAllowsIt) {
  std::vector<SurveyedTensor> all = tensors({{100, 64}, {100, 64}, {8, 64}});
  choose_samples(&all, uint64_t{32 * 64 * 3});
  for (const SurveyedTensor& t : all) EXPECT_EQ(t.sample_rows.size(), t.m) << "four million weights may be sampled";
  EXPECT_EQ(all[0].group, all[1].group);
  EXPECT_NE(all[0].group, all[2].group);
}

TEST(SamplePlan, SpreadsTheFewOverTheFileAndForgetsNoShape) {
  std::vector<std::pair<uint64_t, uint64_t>> shapes;
  for (int layer = 0; layer < 100; ++layer) {
    shapes.emplace_back(4096, 4096);
    shapes.emplace_back(1024, 4096);
  }
  shapes.emplace_back(32000, 4096);
  std::vector<SurveyedTensor> all = tensors(shapes);
  choose_samples(&all, uint64_t{20 * 32 * 4096});
  std::vector<size_t> of_first;
  size_t sampled = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].sample_rows.empty()) continue;
    ++sampled;
    EXPECT_EQ(all[i].sample_rows.size(), all[i].m == 32000 ? 64u : 32u);
    if (all[i].m == 4096) of_first.push_back(i / 2);
  }
  EXPECT_EQ(sampled, 21u);
  EXPECT_FALSE(all.back().sample_rows.empty());
  EXPECT_EQ(of_first, (std::vector<size_t>{5, 15, 25, 35, 45, 55, 65, 75, 85, 95}));
}

TEST(SamplePlan, ScalesSumsByGroup) {
  std::vector<SurveyedTensor> all = tensors({{4, 4}, {4, 4}, {8, 8}, {2, 2}});
  all[0].sample_rows = {0};
  all[2].sample_rows = {0};
  all[1].group = 0;
  all[2].group = 1;
  all[3].group = 2;
  ScaledSum sum;
  sum.add(all[0], 10, 5);
  sum.add(all[1], 30, 0);
  sum.add(all[2], 10, 7);
  EXPECT_EQ(sum.total(), 5 * 4 + 7);
  EXPECT_EQ(sum.scale(0), 4);
  EXPECT_EQ(sum.scale(1), 1);
  sum.add(all[3], 20, 0);  // a group of which nothing is known
  EXPECT_EQ(sum.total(), 5 * 4 + 7 + 20.0 * 12 / 20);
}

TEST(SamplePlan, AFewTensorsTellTheRateOfAll) {
  const auto source = open_model_source(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
  ASSERT_TRUE(source.ok()) << source.status().message();
  const auto runner = make_thread_pool(2);
  CodingChoices choices;
  choices.quantizer.trellis_bits = 3;
  double steps[2] = {}, sampled[2] = {};
  for (const int few : {0, 1}) {
    std::vector<PlannedTensor> plan = plan_model(**source, 4096);
    SurveyMeans means{*runner, one_rank(), ""};
    if (few) means.sample_weights = 1;
    auto rate = RateModel::survey(**source, identity_codec(), {}, choices, &plan, {}, means);
    ASSERT_TRUE(rate.ok()) << rate.status().message();
    FittedCodec fitted;
    const auto step = rate->find_step(3.0 / 8 * static_cast<double>(rate->coded_weights()), *runner, {}, &fitted);
    ASSERT_TRUE(step.ok()) << step.status().message();
    steps[few] = *step;
    for (const SurveyedTensor& t : rate->tensors()) sampled[few] += t.sample_rows.empty() ? 0 : 1;
  }
  EXPECT_LT(sampled[1], sampled[0]);
  EXPECT_NEAR(steps[0], steps[1], 0.02) << "octaves of the step, about bits per weight";
}

}  // namespace
}  // namespace nwc::test
