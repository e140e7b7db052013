// What the tokens of a calibration's text weigh: sketches of their labels, how many of them count, and rows of the
// embedding by how often they occur.
#include <gtest/gtest.h>

#include <numeric>

#include "trainer/calib/label_sketch.h"
#include "trainer/calib/row_shares.h"
#include "trainer/calib/second_moments.h"

namespace nwc::test {
namespace {

constexpr Eigen::Index kVocab = 70;  // more than one word of signs

/// One likely token, and others by falling probability.
RowVector<float> make_logits() {
  RowVector<float> logits(kVocab);
  for (Eigen::Index v = 0; v < kVocab; ++v) logits[v] = -0.1f * static_cast<float>(v);
  logits[3] += 5;
  return logits;
}

RowVector<double> softmax(const RowVector<float>& logits) {
  const RowVector<double> e = (logits.cast<double>().array() - double{logits.maxCoeff()}).exp();
  return e / e.sum();
}

// E[u u^T] = S (diag(p) - p p^T) S: the Fisher information of the prediction.
TEST(LabelSketch, HasTheSecondMomentOfADrawnLabel) {
  const RowVector<float> logits = make_logits();
  const RowVector<double> p = softmax(logits);
  RowVector<float> slope(kVocab);
  for (Eigen::Index v = 0; v < kVocab; ++v) slope[v] = 1 - 0.01f * static_cast<float>(v);
  RowMatrix<double> mean = RowMatrix<double>::Zero(kVocab, kVocab);
  constexpr uint64_t kDraws = 20000;
  RowVector<float> row_sum = RowVector<float>::Zero(kVocab);
  float omega = 0;
  for (uint64_t i = 0; i < kDraws; ++i) {
    RowVector<float> u = logits;
    omega = sketch_label(u, slope, Random({5, i}), &row_sum);
    mean += u.cast<double>().transpose() * u.cast<double>() / static_cast<double>(kDraws);
  }
  const RowVector<double> s = slope.cast<double>();
  RowMatrix<double> expected = -(p.transpose() * p);
  expected.diagonal() += p.transpose();
  expected = s.asDiagonal() * expected * s.asDiagonal();
  EXPECT_LT((mean - expected).norm(), 0.03 * expected.norm());
  EXPECT_NEAR(double{omega}, expected.trace(), 1e-5);
  EXPECT_LT((row_sum.cast<double>() / static_cast<double>(kDraws) - expected.diagonal().transpose()).norm(),
            1e-3 * expected.trace());
}

TEST(LabelSketch, WeighsAboutTheSameEachTime) {
  const RowVector<float> logits = make_logits();
  const RowVector<double> p = softmax(logits);
  RowVector<float> row_sum = RowVector<float>::Zero(kVocab);
  EffectiveTokens sketched, drawn;
  for (uint64_t i = 0; i < 2000; ++i) {
    RowVector<float> u = logits;
    sketch_label(u, {}, Random({6, i}), &row_sum);
    sketched.add(double{u.squaredNorm()});
    const double y = Random({7, i}).uniform();
    Eigen::Index label = 0;
    for (double below = p[0]; below < y && label + 1 < kVocab;) below += p[++label];
    drawn.add(p.squaredNorm() + 1 - 2 * p[label]);
  }
  EXPECT_GT(sketched.count(), 1.2 * drawn.count());
}

TEST(LabelSketch, FollowsFromTheTokensOwnStream) {
  RowVector<float> row_sum = RowVector<float>::Zero(kVocab);
  RowVector<float> a = make_logits(), b = make_logits(), c = make_logits();
  sketch_label(a, {}, Random({1, 2}), &row_sum);
  sketch_label(b, {}, Random({1, 2}), &row_sum);
  sketch_label(c, {}, Random({1, 3}), &row_sum);
  EXPECT_TRUE(a == b);
  EXPECT_FALSE(a == c);
}

TEST(EffectiveTokens, AreAsManyAsWeighTheSame) {
  EffectiveTokens equal, one, none;
  for (int i = 0; i < 12; ++i) equal.add(0.25);
  for (int i = 0; i < 12; ++i) one.add(i == 5 ? 1 : 0);
  EXPECT_DOUBLE_EQ(equal.count(), 12);
  EXPECT_DOUBLE_EQ(one.count(), 1);
  EXPECT_DOUBLE_EQ(none.count(), 0);
  equal.add(one, 3);  // weights 0.25 twelve times and 3
  EXPECT_DOUBLE_EQ(equal.count(), 36 / (0.75 + 9));
}

TEST(RowShares, UnseenTokensShareWhatIsSeenOnce) {
  // Of 8 tokens 2 occur once, so that a quarter of the probability is left for the 6 of 10 that do not occur.
  const std::vector<uint32_t> tokens = {0, 0, 0, 1, 1, 1, 2, 3};
  const std::vector<double> f = token_frequencies(tokens, 10);
  EXPECT_NEAR(std::accumulate(f.begin(), f.end(), 0.0), 10, 1e-12);
  for (size_t v = 4; v < 10; ++v) EXPECT_NEAR(f[v], 10 * 0.25 / 6, 1e-12);
  EXPECT_NEAR(f[0], 10 * 0.75 * 3 / 8, 1e-12);
  EXPECT_NEAR(f[2], 10 * 0.75 / 8, 1e-12);
}

TEST(RowShares, AVocabularyMayBeLargerThanTheText) {
  const std::vector<uint32_t> thrice(30, 7);  // nothing occurs once
  const std::vector<double> f = token_frequencies(thrice, 100000);
  EXPECT_NEAR(f[7], 100000 * (1 - 0.5 / 30), 1e-6);
  EXPECT_NEAR(f[8], 100000 * 0.5 / 30 / 99999, 1e-12);
  const std::vector<uint32_t> once = {1, 2, 3};  // everything does
  const std::vector<double> g = token_frequencies(once, 100000);
  EXPECT_NEAR(g[1], 100000 * 0.5 / 3, 1e-6);
  EXPECT_NEAR(g[0], 100000 * 0.5 / 99997, 1e-9);
  const std::vector<double> all = token_frequencies(once, 4);
  EXPECT_NEAR(all[0], 2, 1e-12);
}

TEST(RowShares, OtherTextsGetATenth) {
  std::vector<double> values = {0, 2, 6};
  add_foreign_share(values);
  EXPECT_NEAR(values[0], 0.1, 1e-12);
  EXPECT_NEAR(values[1], 0.9 * 0.75 + 0.1, 1e-12);
  EXPECT_NEAR(values[2], 0.9 * 2.25 + 0.1, 1e-12);
  std::vector<double> nothing = {0, 0};
  add_foreign_share(nothing);
  EXPECT_EQ(nothing, (std::vector<double>{1, 1}));
}

}  // namespace
}  // namespace nwc::test
