// Every family of models from the GGUF file that llama.cpp's converter makes of it: the same logits as from the Hugging
// Face folder.
#include "tests/engine/gguf_fixture.h"

namespace nwc::test {
namespace {

class GgufFamilies : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufFamilies, LoadToTheLogitsOfTheFolder) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families_gguf is not here";
  const GgufFixture f = make_gguf_family(GetParam());
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  params.kv_dtype = Dtype::kF32;
  params.context = static_cast<uint32_t>(f.family.tokens.size());
  Bench folder = make_bench(load_model(f.family.folder), params);
  ASSERT_NE(folder.session, nullptr);
  auto source = open_model_source(f.path);
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_TRUE((*source)->model()) << join_notes((*source)->notes(), NoteKind::kModelLeftOut);
  EXPECT_TRUE((*source)->tokenizer()) << join_notes((*source)->notes(), NoteKind::kTokenizerLeftOut);
  Bench gguf = make_bench(load_model(f.path), params);
  ASSERT_NE(gguf.session, nullptr);
  const std::vector<float> expected = all_logits(*folder.session, f.family.tokens);
  float largest = 0;
  for (const float v : expected) largest = std::max(largest, std::abs(v));
  EXPECT_LT(largest_difference(all_logits(*gguf.session, f.family.tokens), expected), 1e-4f * largest);
}

INSTANTIATE_TEST_SUITE_P(All, GgufFamilies, ::testing::ValuesIn(gguf_family_names()),
                         [](const auto& i) { return i.param; });

}  // namespace
}  // namespace nwc::test
