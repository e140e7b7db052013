// What the fuzzers rely on: their mutators make files that open, and their comparisons can fail.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/codec/synthesis.h"
#include "runtime/codec/tensor_decode.h"
#include "runtime/engine/session.h"
#include "tests/fuzz/llama_reference.h"
#include "tests/fuzz/model_mutator.h"
#include "tests/fuzz/small_model.h"
#include "tests/fuzz/synthesis_bound.h"

namespace nwc::fuzz {
namespace {

SmallModelOptions small_options(bool network) {
  SmallModelOptions o;
  o.codec = {.levels = 3, .tables = 5, .alphabet = 16};
  o.row_scales = network;
  if (network) {
    o.codec.width = 16;
    o.codec.blocks = 2;
    o.codec.activation = Activation::kSilu;
    o.codec.layer_norm = true;
  } else {
    o.codec.trellis_bits = 4;
  }
  return o;
}

std::vector<int16_t> symbols(const NwcFile& file, size_t tensor) {
  const TensorRecord& r = file.tensors()[tensor];
  std::vector<int16_t> q((r.rows() + 15) / 16 * r.cols() * 16);
  const auto pool = make_thread_pool(1);
  const Status status = decode_tensor_values(file, build_decode_tables(*file.codec()), tensor, q, *pool, {});
  EXPECT_TRUE(status.ok()) << status.message();
  return q;
}

TEST(FuzzChecks, AModelEncodedAnewDecodesToTheSameSymbols) {
  for (const bool network : {false, true}) {
    const std::vector<uint8_t> bytes = make_small_model(small_options(network));
    std::optional<EditableModel> model = EditableModel::take_apart(bytes);
    ASSERT_TRUE(model);
    for (EditableTensor& tensor : model->tensors) tensor.changed = true;
    const std::vector<uint8_t> again = model->put_together();
    const auto before = NwcFile::open(make_memory_reader(bytes)), after = NwcFile::open(make_memory_reader(again));
    ASSERT_TRUE(before.ok() && after.ok()) << after.status().message();
    ASSERT_EQ((*before)->tensors().size(), (*after)->tensors().size());
    size_t coded = 0;
    for (size_t i = 0; i < (*before)->tensors().size(); ++i) {
      if ((*before)->tensors()[i].storage != Storage::kCoded) continue;
      ++coded;
      EXPECT_EQ(symbols(**before, i), symbols(**after, i));
    }
    EXPECT_EQ(coded, 15u) << "seven matrices in two layers, and the embedding";
  }
}

TEST(FuzzChecks, DamageIsCarriedBehindRightChecksums) {
  const std::vector<uint8_t> bytes = make_small_model(small_options(false));
  std::optional<LooseContainer> container = LooseContainer::take_apart(bytes, 1 << 20);
  ASSERT_TRUE(container);
  for (uint8_t& byte : container->find(SectionType::kData)->content) byte ^= 0x10u;
  const auto raw_status = [&] {
    const std::vector<uint8_t> damaged = container->put_together();
    const auto file = NwcFile::open(make_memory_reader(damaged));
    EXPECT_TRUE(file.ok()) << file.status().message();
    if (!file.ok()) return file.status();
    std::vector<uint8_t> storage;
    return as_status((*file)->load_raw(*(*file)->find("model.norm.weight"), true, &storage));
  };
  EXPECT_EQ(raw_status().code(), StatusCode::kChecksum);
  repair_tensor_checksums(&*container);
  EXPECT_TRUE(raw_status().ok()) << raw_status().message();
}

TEST(FuzzChecks, MostMutatedModelsDecode) {
  int opened = 0, changed = 0;
  const std::vector<uint8_t> bytes = make_small_model(small_options(true));
  for (unsigned seed = 0; seed < 50; ++seed) {
    std::vector<uint8_t> copy(bytes);
    copy.resize(2 * bytes.size());
    copy.resize(mutate_model(copy.data(), bytes.size(), copy.size(), seed));
    opened += NwcFile::open(make_memory_reader(copy)).ok();
    changed += copy != bytes;
  }
  EXPECT_GT(opened, 40);
  EXPECT_GT(changed, 45);
}

TEST(FuzzChecks, SynthesisBoundIsTightWhereNothingCancels) {
  reference::CodecOptions o = small_options(true).codec;
  const CodecRecord codec = reference::make_codec(o, 3);
  std::vector<int16_t> q(kChunk);
  for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int16_t>(static_cast<int>(i % 5) - 2);
  const uint8_t level = 1;
  std::vector<float> y(kChunk);
  synthesize_chunks(CpuLevel::kScalar, codec, q, &level, y);
  SynthesisBound bound;
  ASSERT_TRUE(bound_synthesis(codec, q.data(), level, &bound));
  for (size_t i = 0; i < y.size(); ++i) {
    EXPECT_LE(std::abs(y[i] - bound.y[i]), bound.error[i]);
    EXPECT_LT(bound.error[i], 5e-3 * (1 + bound.largest));
  }
}

// Close to the session's logits, and so far from those of another token that a fault would show.
TEST(FuzzChecks, ReferenceTellsRightLogitsFromWrongOnes) {
  for (const bool network : {false, true}) {
    const std::vector<uint8_t> bytes = make_small_model(small_options(network));
    const auto file = NwcFile::open(make_memory_reader(bytes));
    ASSERT_TRUE(file.ok());
    const auto runner = make_thread_pool(1);
    const auto decoder = create_cpu_decoder(**file, *runner, detect_cpu_level());
    SessionParams params;
    params.weight_dtype = params.kv_dtype = Dtype::kF32;
    auto session = Session::create(**file, **decoder, *runner, params);
    ASSERT_TRUE(session.ok()) << session.status().message();
    const std::vector<uint32_t> tokens = {5, 9, 30, 2};
    std::vector<float> logits(tokens.size() * 32);
    ASSERT_TRUE((*session)->eval(tokens, LogitsWanted::kAll, logits).ok());

    const auto reference = LlamaReference::create(**file, build_decode_tables(*(*file)->codec()));
    ASSERT_TRUE(reference);
    ReferencePass pass;
    const std::vector<double> exact = reference->logits(tokens, &pass);
    const std::vector<double> allowed = reference->allowed_error(tokens, exact, {});
    for (size_t t = 0; t < tokens.size(); ++t) {
      double right = 0, wrong = 0;
      for (size_t v = 0; v < 32; ++v) {
        right = std::max(right, std::abs(logits[t * 32 + v] - exact[t * 32 + v]));
        wrong = std::max(wrong, std::abs(logits[t * 32 + v] - exact[(t + 1) % tokens.size() * 32 + v]));
      }
      EXPECT_LT(right, 0.1 * allowed[t]);
      EXPECT_GT(wrong, 3 * allowed[t]);
    }
  }
}

}  // namespace
}  // namespace nwc::fuzz
