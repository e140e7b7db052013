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
  {
    const auto file = NwcFile::open(make_memory_reader(bytes));
    ASSERT_TRUE(file.ok()) << file.status().message();
    const TensorRecord& norm = (*file)->tensors()[*(*file)->find("model.norm.weight")];
    container->find(SectionType::kData)->content[norm.offset] ^= 0x10u;
  }
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

/// A session fed with single tokens, and what the reference says about it.
struct Compared {
  std::vector<float> logits;
  std::vector<double> exact, allowed;
  size_t vocab = 0;

  /// Of the largest logit, in the token where it is most.
  template <typename Other>
  double off(const Other& other) const {
    double worst = 0;
    for (size_t t = 0; t * vocab < exact.size(); ++t) {
      double most = 0, largest = 0;
      for (size_t i = t * vocab; i < (t + 1) * vocab; ++i) {
        most = std::max(most, std::abs(static_cast<double>(logits[i]) - static_cast<double>(other[i])));
        largest = std::max(largest, std::abs(exact[i]));
      }
      worst = std::max(worst, most / largest);
    }
    return worst;
  }
};

Compared compare(const std::vector<uint8_t>& bytes, SessionMode mode, Dtype type, const std::vector<uint32_t>& tokens) {
  Compared c;
  const auto file = NwcFile::open(make_memory_reader(bytes));
  EXPECT_TRUE(file.ok());
  const auto runner = make_thread_pool(1);
  const auto decoder = create_cpu_decoder(**file, *runner, detect_cpu_level());
  SessionParams params;
  params.mode = mode;
  params.weight_dtype = type;
  params.kv_dtype = type == Dtype::kF32 ? Dtype::kF32 : Dtype::kF16;
  auto session = Session::create(**file, **decoder, *runner, params);
  EXPECT_TRUE(session.ok()) << session.status().message();
  c.vocab = (*session)->vocab_size();
  c.logits.resize(tokens.size() * c.vocab);
  for (size_t t = 0; t < tokens.size(); ++t) {
    const std::span<float> row(c.logits.data() + t * c.vocab, c.vocab);
    EXPECT_TRUE((*session)->eval(std::span(tokens).subspan(t, 1), LogitsWanted::kLast, row).ok());
  }
  const auto reference =
      LlamaReference::create(**file, build_decode_tables(*(*file)->codec()), **decoder, params, (*session)->plan());
  EXPECT_TRUE(reference);
  ReferencePass pass;
  c.exact = reference->logits(tokens, &pass);
  c.allowed = reference->allowed_error(tokens, c.exact);
  return c;
}

// Close to the session's logits, and so far from those of another token that a fault would show.
TEST(FuzzChecks, ReferenceTellsRightLogitsFromWrongOnes) {
  for (const bool network : {false, true}) {
    for (const SessionMode mode : {SessionMode::kResident, SessionMode::kFused}) {
      const Compared c = compare(make_small_model(small_options(network)), mode, Dtype::kF16, {5, 9, 30, 2});
      for (size_t t = 0; t < 4; ++t) {
        double right = 0, wrong = 0;
        for (size_t v = 0; v < c.vocab; ++v) {
          const double logit = c.logits[t * c.vocab + v];
          right = std::max(right, std::abs(logit - c.exact[t * c.vocab + v]));
          wrong = std::max(wrong, std::abs(logit - c.exact[(t + 1) % 4 * c.vocab + v]));
        }
        EXPECT_LT(right, 0.1 * c.allowed[t]);
        EXPECT_GT(wrong, 3 * c.allowed[t]);
      }
    }
  }
}

// Random models whose logits differ by more than 6 % of the largest between a resident and a fused session in f16. Each
// of them computes exactly what it should: with all weights rounded to f16 the one, with the embedding's rows alone the
// other, and these models answer the rounding of their weights with so much. In f32 they agree.
TEST(FuzzChecks, FusedAndResidentDifferByTheRoundingOfWeightsAlone) {
  const std::vector<uint32_t> tokens = {0, 5, 10, 15, 20, 25};
  for (const uint32_t seed : {38u, 64u, 132u}) {
    SmallModelOptions options;
    options.codec = {.levels = 3, .tables = 5, .alphabet = 16};
    options.scale_base = 0.1f;
    options.seed = seed;
    options.tied = seed % 2 == 1;
    const std::vector<uint8_t> bytes = make_small_model(options);
    const Compared resident = compare(bytes, SessionMode::kResident, Dtype::kF16, tokens);
    const Compared fused = compare(bytes, SessionMode::kFused, Dtype::kF16, tokens);
    EXPECT_GT(fused.off(resident.logits), 0.06) << seed;
    EXPECT_LT(resident.off(resident.exact), 5e-4) << seed;
    EXPECT_LT(fused.off(fused.exact), 5e-4) << seed;
    const Compared resident_f32 = compare(bytes, SessionMode::kResident, Dtype::kF32, tokens);
    const Compared fused_f32 = compare(bytes, SessionMode::kFused, Dtype::kF32, tokens);
    EXPECT_LT(fused_f32.off(resident_f32.logits), 2e-4) << seed;
  }
}

}  // namespace
}  // namespace nwc::fuzz
