// Factors that do not fit memory come back from the file as they were, and a file that cannot be written is no error.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "tests/data/temp_dir.h"
#include "trainer/nn/random.h"
#include "trainer/plan/factor_store.h"

namespace nwc::test {
namespace {

std::shared_ptr<const FeedbackFactors> random_factors(size_t n) {
  Random random({n});
  auto out = std::make_shared<FeedbackFactors>();
  out->upper.assign(n * n, 0.0f);
  for (size_t i = 0; i < n; ++i) {
    out->diagonal.push_back(1 + random.uniform());
    out->upper[i * n + i] = 1;
    for (size_t j = i + 1; j < n; ++j) out->upper[i * n + j] = static_cast<float>(random.normal());
  }
  out->damping = 0.25;
  out->added = 0.5;
  return out;
}

void expect_same(const FeedbackFactors& a, const FeedbackFactors& b) {
  EXPECT_EQ(a.upper, b.upper);
  EXPECT_EQ(a.diagonal, b.diagonal);
  EXPECT_EQ(a.damping, b.damping);
  EXPECT_EQ(a.added, b.added);
}

TEST(FactorStore, GivesBackWhatItGotFromMemoryAndFile) {
  const TempDir folder;
  const std::vector<size_t> sizes = {40, 1, 17, 2100, 64};  // the fourth takes more than one write
  FactorStore store(folder.path(), FactorStore::memory_bytes(40) + 100);
  store.resize(sizes.size() + 1);
  std::vector<std::shared_ptr<const FeedbackFactors>> all;
  for (size_t i = 0; i < sizes.size(); ++i) store.put(i, all.emplace_back(random_factors(sizes[i])));
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      const auto got = store.get(i);
      ASSERT_TRUE(got.ok()) << got.status().message();
      ASSERT_NE(*got, nullptr) << i;
      expect_same(**got, *all[i]);
      EXPECT_EQ(got->get() == all[i].get(), i <= 1) << "in memory are the first two";
    }
    EXPECT_EQ(*store.get(sizes.size()), nullptr);
  }
  EXPECT_EQ(store.trouble(), "");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << "the file has no name";

  store.renumber({1, 3, 5});
  expect_same(**store.get(0), *all[1]);
  expect_same(**store.get(1), *all[3]);
  EXPECT_EQ(*store.get(2), nullptr);
}

TEST(FactorStore, SaysBeforehandWhatTheFileTakes) {
  const std::vector<uint64_t> sizes = {40, 1, 17, 30, 2};
  const uint64_t all = FactorStore::memory_bytes(40) + 100;
  EXPECT_EQ(FactorStore::file_bytes(sizes, all), FactorStore::file_bytes(17) + FactorStore::file_bytes(30))
      << "the small ones still fit beside the first";
  EXPECT_EQ(FactorStore::file_bytes(sizes, 1 << 20), 0u);
  EXPECT_EQ(FactorStore::file_bytes(std::span<const uint64_t>(), 0), 0u);
  EXPECT_EQ(FactorStore::file_bytes(17), 17 * 18 / 2 * sizeof(float));
}

TEST(FactorStore, KeepsNothingBeyondMemoryWithoutAFolder) {
  FactorStore store("", FactorStore::memory_bytes(8));
  store.resize(2);
  store.put(0, random_factors(8));
  store.put(1, random_factors(8));
  EXPECT_NE(*store.get(0), nullptr);
  EXPECT_EQ(*store.get(1), nullptr);
  EXPECT_EQ(store.trouble(), "");
}

TEST(FactorStore, SaysWhyAFolderTakesNothing) {
  const TempDir folder;
  FactorStore store(folder.file("missing"), 0);
  store.resize(1);
  store.put(0, random_factors(8));
  EXPECT_EQ(*store.get(0), nullptr);
  EXPECT_NE(store.trouble().find("missing"), std::string::npos) << store.trouble();
}

TEST(FactorStore, KeepsWhatItHasWhenTheDiskIsFull) {
  const TempDir folder;
  FactorStore store(folder.path(), 0);
  store.resize(3);
  const auto first = random_factors(30);
  store.put(0, first);
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{}, small{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  small = limit;
  small.rlim_cur = FactorStore::file_bytes(30) + 100;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  store.put(1, random_factors(40));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, before);
  EXPECT_NE(store.trouble(), "");
  store.put(2, random_factors(2));  // no more is tried
  EXPECT_EQ(*store.get(1), nullptr);
  EXPECT_EQ(*store.get(2), nullptr);
  ASSERT_NE(*store.get(0), nullptr);
  expect_same(**store.get(0), *first);
}

}  // namespace
}  // namespace nwc::test
