// Importance matrices: both forms say the same, nothing of them is believed, and their names find the model's matrices.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/data/gguf_builder.h"
#include "tests/encode/test_source.h"
#include "trainer/data/column_powers.h"
#include "trainer/data/imatrix.h"
#include "trainer/data/imatrix_names.h"

namespace nwc {
namespace {

using nwc::testing::MemorySource;
using test::GgufBuilder;

constexpr uint32_t kF32Type = 0;

std::string floats(const std::vector<float>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float)};
}

/// The older form.
class Dat {
 public:
  explicit Dat(int32_t entries) { number(entries); }
  Dat& number(int32_t v) {
    bytes_.append(reinterpret_cast<const char*>(&v), sizeof v);
    return *this;
  }
  Dat& text(const std::string& s) {
    number(static_cast<int32_t>(s.size()));
    bytes_ += s;
    return *this;
  }
  /// values: mean squares times calls
  Dat& entry(const std::string& name, int32_t calls, const std::vector<float>& values) {
    text(name).number(calls).number(static_cast<int32_t>(values.size()));
    bytes_ += floats(values);
    return *this;
  }
  const std::string& build() const { return bytes_; }

 private:
  std::string bytes_;
};

GgufBuilder gguf() {
  GgufBuilder b;
  b.string("general.type", "imatrix").u32("imatrix.chunk_count", 7).u32("imatrix.chunk_size", 512);
  b.strings("imatrix.datasets", {"text.txt"});
  return b;
}
GgufBuilder& add(GgufBuilder* b, const std::string& name, uint64_t n, const std::vector<float>& sums,
                 const std::vector<float>& counts) {
  b->tensor(name + ".in_sum2", {n, counts.size()}, kF32Type, floats(sums));
  return b->tensor(name + ".counts", {1, counts.size()}, kF32Type, floats(counts));
}

Result<Imatrix> open(const std::string& bytes) {
  return Imatrix::open(make_owned_reader({bytes.begin(), bytes.end()}));
}
std::string error(const std::string& bytes, StatusCode code) {
  const Result<Imatrix> r = open(bytes);
  EXPECT_EQ(r.status().code(), code) << r.status().message();
  return r.status().message();
}
Result<ColumnPowers> match(const std::string& bytes, const ModelSource& source) {
  NWC_ASSIGN_OR_RETURN(Imatrix imatrix, open(bytes));
  return ColumnPowers::match(std::move(imatrix), source);
}

const std::vector<float> kQ = {1, 4, 9, 16}, kDown = {8, 0, 2, 2, 4, 4};

std::string small_dat() {
  return Dat(2)
      .entry("blk.0.ffn_down.weight", 2, kDown)
      .entry("blk.0.attn_q.weight", 1, kQ)
      .number(7)
      .text("text.txt")
      .build();
}
std::string small_gguf() {
  GgufBuilder b = gguf();
  add(&b, "blk.0.attn_q.weight", 4, kQ, {1});
  return add(&b, "blk.0.ffn_down.weight", 6, kDown, {2}).build();
}

TEST(Imatrix, BothFormsSayTheSame) {
  const Result<Imatrix> dat = open(small_dat()), file = open(small_gguf());
  ASSERT_TRUE(dat.ok()) << dat.status().message();
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(dat->hash(), file->hash());
  for (const Imatrix* m : {&*dat, &*file}) {
    ASSERT_EQ(m->entries().size(), 2u);
    const ImatrixEntry* down = m->find("blk.0.ffn_down.weight");
    ASSERT_NE(down, nullptr);
    EXPECT_EQ(*m->read(*down, 0, 6), (std::vector<float>{4, 0, 1, 1, 2, 2}));
    EXPECT_EQ(*m->read(*down, 2, 3), (std::vector<float>{1, 1, 2}));
    EXPECT_EQ(m->find("blk.0.ffn_up.weight"), nullptr);
    EXPECT_EQ(m->chunks(), 7u);
    EXPECT_EQ(m->datasets(), std::vector<std::string>{"text.txt"});
  }
}

TEST(Imatrix, HashSaysWhatDecides) {
  GgufBuilder other = gguf();
  add(&other, "blk.0.attn_q.weight", 4, {1, 4, 9, 17}, {1});
  add(&other, "blk.0.ffn_down.weight", 6, kDown, {2});
  EXPECT_NE(open(other.build())->hash(), open(small_gguf())->hash());
}

TEST(Imatrix, EveryTruncationIsAnError) {
  for (const std::string& whole : {small_dat(), small_gguf()}) {
    // The first version of .dat had nothing behind the entries.
    const size_t whole_entries =
        Dat(2).entry("blk.0.ffn_down.weight", 2, kDown).entry("blk.0.attn_q.weight", 1, kQ).build().size();
    for (size_t size = 0; size < whole.size(); ++size) {
      const bool complete = whole[0] != 'G' && size == whole_entries;
      // GGUF pads its last tensor.
      if (whole[0] == 'G' && size >= whole.size() - 28) break;
      const Result<Imatrix> r = open(whole.substr(0, size));
      EXPECT_EQ(r.ok(), complete) << size;
      EXPECT_FALSE(!r.ok() && r.status().message().empty());
    }
  }
}

TEST(Imatrix, DatIsNotBelieved) {
  constexpr int32_t kHuge = std::numeric_limits<int32_t>::max();
  EXPECT_NE(error(Dat(0).build(), StatusCode::kCorrupt).find("number of entries"), std::string::npos);
  error(Dat(-1).build(), StatusCode::kCorrupt);
  error(Dat(kHuge).build(), StatusCode::kLimit);
  error(Dat(1).number(kHuge).build(), StatusCode::kLimit);  // name
  error(Dat(1).number(0).build(), StatusCode::kCorrupt);    // no name
  error(Dat(1).text("a").number(-1).number(1).build(), StatusCode::kCorrupt);
  error(Dat(1).text("a").number(1).number(0).build(), StatusCode::kCorrupt);
  EXPECT_NE(error(Dat(1).text("a").number(1).number(kHuge).build(), StatusCode::kTruncated).find("\"a\": values"),
            std::string::npos);
  error(Dat(2).entry("a", 1, {1}).entry("a", 1, {1}).build(), StatusCode::kCorrupt);
  EXPECT_NE(error(Dat(1).entry("a", 1, {1, -1}).build(), StatusCode::kCorrupt).find("value 1 is -1"),
            std::string::npos);
  error(Dat(1).entry("a", 1, {NAN}).build(), StatusCode::kCorrupt);
  error(Dat(1).entry("a", 1, {INFINITY}).build(), StatusCode::kCorrupt);
  error(Dat(1).entry("a", 0, {NAN}).build(), StatusCode::kCorrupt);
  error(Dat(1).entry("a", 1, {1}).number(1).number(kHuge).build(), StatusCode::kLimit);
  error(Dat(1).entry("a", 1, {1}).number(1).text("t").build() + "x", StatusCode::kCorrupt);
}

TEST(Imatrix, GgufIsNotBelieved) {
  GgufBuilder model;
  EXPECT_NE(error(model.string("general.type", "model").build(), StatusCode::kUnrecognized).find("\"model\""),
            std::string::npos);
  error(GgufBuilder().build(), StatusCode::kUnrecognized);
  error(GgufBuilder().u32("general.type", 1).build(), StatusCode::kCorrupt);
  error(gguf().build(), StatusCode::kCorrupt);
  error(gguf().string("imatrix.chunk_count", "1").build(), StatusCode::kCorrupt);  // twice
  error(gguf().tensor("a.in_sum2", {2}, kF32Type, floats({1, 2})).build(), StatusCode::kCorrupt);
  constexpr uint32_t kF16Type = 1;
  error(gguf().tensor("a.in_sum2", {2}, kF16Type, "1234").tensor("a.counts", {1}, kF32Type, floats({1})).build(),
        StatusCode::kCorrupt);
  error(gguf().tensor("a.in_sum2", {2}, kF32Type, floats({1, 2})).tensor("a.counts", {1}, kF16Type, "12").build(),
        StatusCode::kCorrupt);
  GgufBuilder counts = gguf(), negative = gguf(), tiny = gguf();
  counts.tensor("a.in_sum2", {2, 1}, kF32Type, floats({1, 2}));
  error(counts.tensor("a.counts", {1, 2}, kF32Type, floats({1, 1})).build(), StatusCode::kCorrupt);
  EXPECT_NE(error(add(&negative, "a", 2, {1, 2}, {-1}).build(), StatusCode::kCorrupt).find("count 0 is -1"),
            std::string::npos);
  error(add(&tiny, "a", 2, {1e30f, 2}, {1e-30f}).build(), StatusCode::kCorrupt);  // the mean is infinite
}

TEST(ImatrixNames, OfFamiliesAndOthers) {
  const auto first = [](const std::string& name) {
    const std::vector<ImatrixName> all = imatrix_names(nullptr, name);
    return all.size() > 1 ? all[1].tensor + (all[1].expert ? "/" + std::to_string(*all[1].expert) : "") : "";
  };
  EXPECT_EQ(first("model.layers.12.self_attn.q_proj.weight"), "blk.12.attn_q.weight");
  EXPECT_EQ(first("model.language_model.layers.1.mlp.down_proj.weight"), "blk.1.ffn_down.weight");
  EXPECT_EQ(first("language_model.model.layers.1.mlp.up_proj.weight"), "blk.1.ffn_up.weight");
  EXPECT_EQ(first("layers.1.self_attn.o_proj.weight"), "blk.1.attn_output.weight");
  EXPECT_EQ(first("model.layers.3.mlp.experts.17.down_proj.weight"), "blk.3.ffn_down_exps.weight/17");
  EXPECT_EQ(first("model.layers.3.block_sparse_moe.experts.2.w1.weight"), "blk.3.ffn_gate_exps.weight/2");
  EXPECT_EQ(first("model.layers.3.mlp.shared_experts.up_proj.weight"), "blk.3.ffn_up_shexp.weight");
  EXPECT_EQ(first("model.layers.3.self_attn.kv_a_proj_with_mqa.weight"), "blk.3.attn_kv_a_mqa.weight");
  EXPECT_EQ(first("backbone.layers.0.mixer.in_proj.weight"), "blk.0.ssm_in.weight");
  EXPECT_EQ(first("transformer.h.0.self_attention.query_key_value.weight"), "blk.0.attn_qkv.weight");
  EXPECT_EQ(first("lm_head.weight"), "output.weight");
  EXPECT_EQ(first("vision_tower.layers.0.self_attn.q_proj.weight"), "");
  EXPECT_EQ(first("model.layers.x.self_attn.q_proj.weight"), "");
}

TEST(ColumnPowers, FindsMatricesByTheirNames) {
  MemorySource source;
  source.add_gaussian("model.embed_tokens.weight", 8, 4, 1);
  source.add_gaussian("model.layers.0.self_attn.q_proj.weight", 8, 4, 2);
  source.add_gaussian("model.layers.0.self_attn.k_proj.weight", 8, 4, 3);  // reads what q_proj reads
  source.add_gaussian("model.layers.0.mlp.down_proj.weight", 8, 6, 4);
  source.add_f32("model.layers.0.input_layernorm.weight", {4}, {1, 1, 1, 1});
  const Result<ColumnPowers> powers = match(small_dat(), source);
  ASSERT_TRUE(powers.ok()) << powers.status().message();
  EXPECT_EQ(powers->covered(), 3u);
  EXPECT_EQ(powers->uncovered(), std::vector<std::string>{"model.embed_tokens.weight"});
  EXPECT_TRUE(powers->is_head(0) && !powers->is_head(1));
  EXPECT_FALSE(powers->covers(4));
  EXPECT_EQ(*powers->load(1), (std::vector<double>{1, 4, 9, 16}));
  EXPECT_EQ(*powers->load(2), *powers->load(1));
  EXPECT_EQ(*powers->load(3), (std::vector<double>{4, 0, 1, 1, 2, 2}));
}

TEST(ColumnPowers, ExpertsInOneTensorAndApart) {
  GgufBuilder b = gguf();
  const std::string bytes = add(&b, "blk.0.ffn_down_exps.weight", 2, {3, 9, 1, 1, 0, 0}, {3, 1, 0}).build();
  MemorySource apart, whole;
  for (int e = 0; e < 3; ++e)
    apart.add_gaussian("model.layers.0.mlp.experts." + std::to_string(e) + ".down_proj.weight", 8, 2, 1);
  const Result<ColumnPowers> one = match(bytes, apart);
  ASSERT_TRUE(one.ok()) << one.status().message();
  EXPECT_EQ(*one->load(0), (std::vector<double>{1, 3}));
  EXPECT_EQ(*one->load(1), (std::vector<double>{1, 1}));
  EXPECT_FALSE(one->covers(2));  // no token went there
  whole.add_f32("blk.0.ffn_down_exps.weight", {3, 2, 2}, std::vector<float>(12, 0.5f));
  const Result<ColumnPowers> all = match(bytes, whole);
  ASSERT_TRUE(all.ok()) << all.status().message();
  EXPECT_EQ(*all->load(0), (std::vector<double>{1, 2.5}));  // by tokens: (3 + 1) / 4, (9 + 1) / 4
  const std::string dat = Dat(1).entry("blk.0.ffn_down_exps.weight", 1, {1, 3, 1, 1, 1, 2}).build();
  EXPECT_EQ(*match(dat, whole)->load(0), (std::vector<double>{1, 2}));
  EXPECT_EQ(*match(dat, apart)->load(2), (std::vector<double>{1, 2}));
  apart.add_gaussian("model.layers.0.mlp.experts.3.down_proj.weight", 8, 2, 1);
  EXPECT_NE(match(dat, apart).status().message().find("3 experts"), std::string::npos);
}

TEST(ColumnPowers, AnotherModelIsRefused) {
  MemorySource wide, other;
  wide.add_gaussian("model.layers.0.self_attn.q_proj.weight", 8, 8, 1);
  other.add_gaussian("encoder.convolution", 8, 4, 1);
  Result<ColumnPowers> powers = match(small_dat(), wide);
  EXPECT_EQ(powers.status().code(), StatusCode::kInvalidArgument);
  for (const char* part : {"4 columns", "[8, 8]", "blk.0.attn_q.weight", "q_proj", "llama-imatrix"})
    EXPECT_NE(powers.status().message().find(part), std::string::npos) << powers.status().message();
  powers = match(small_dat(), other);
  for (const char* part : {"none of the model's", "blk.0.attn_q.weight", "encoder.convolution"})
    EXPECT_NE(powers.status().message().find(part), std::string::npos) << powers.status().message();
}

TEST(ColumnPowers, MatricesWithoutColumnsAreNone) {
  MemorySource source;
  source.add_f32("model.layers.0.self_attn.q_proj.weight", {8, 0}, {});
  source.add_gaussian("model.layers.0.self_attn.k_proj.weight", 8, 4, 1);
  const Result<ColumnPowers> powers = match(small_dat(), source);
  ASSERT_TRUE(powers.ok()) << powers.status().message();
  EXPECT_FALSE(powers->covers(0));
  EXPECT_TRUE(powers->covers(1));
}

}  // namespace
}  // namespace nwc
