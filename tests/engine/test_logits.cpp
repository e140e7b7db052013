// Our logits against those of transformers in float64 (scripts/fixtures/make_logits.py). Tolerance 1e-4 with f32
// weights and cache (measured: below 3e-5 for logits of size 16); a f16 cache may cost 2e-2.
#include "tests/engine/model_fixture.h"

namespace nwc::test {
namespace {

const std::string kFixtures = NWC_SOURCE_DIR "/tests/fixtures/logits/";

struct Reference {
  std::vector<uint32_t> tokens;
  std::vector<uint32_t> positions;
  std::vector<float> logits;
};

std::vector<Reference> load_references(const std::string& path) {
  std::vector<Reference> references;
  auto source = open_model_source(path);
  EXPECT_TRUE(source.ok()) << source.status().message();
  if (!source.ok()) return references;
  const auto ints = [&](size_t index) {
    std::vector<uint32_t> values((*source)->tensors()[index].num_elements());
    EXPECT_TRUE((*source)->read_raw(index, {reinterpret_cast<uint8_t*>(values.data()), values.size() * 4}).ok());
    return values;
  };
  for (int i = 0;; ++i) {
    const auto tokens = (*source)->find("tokens." + std::to_string(i));
    if (!tokens) break;
    Reference r;
    r.tokens = ints(*tokens);
    r.positions = ints(*(*source)->find("positions." + std::to_string(i)));
    auto logits = (*source)->read_f32(*(*source)->find("logits." + std::to_string(i)));
    EXPECT_TRUE(logits.ok());
    if (logits.ok()) r.logits = std::move(logits).value();
    references.push_back(std::move(r));
  }
  EXPECT_FALSE(references.empty());
  return references;
}

float compare(const PlainModel& model, const std::vector<Reference>& references, const SessionParams& params) {
  Bench bench = make_bench(model, params);
  if (!bench.session) return INFINITY;
  float worst = 0;
  const size_t vocab = bench.session->vocab_size();
  for (const Reference& r : references) {
    const std::vector<float> logits = all_logits(*bench.session, r.tokens);
    for (size_t i = 0; i < r.positions.size(); ++i) {
      worst = std::max(worst, largest_difference(std::span(logits).subspan(r.positions[i] * vocab, vocab),
                                                 std::span(r.logits).subspan(i * vocab, vocab)));
    }
  }
  return worst;
}

void check(const std::string& model_path, const std::string& name) {
  const PlainModel model = load_model(model_path);
  const std::vector<Reference> references = load_references(kFixtures + name + ".logits.safetensors");
  for (CpuLevel level : kCpuLevels) {
    if (level > detect_cpu_level()) continue;
    SessionParams params;
    params.max_cpu = level;
    params.weight_dtype = Dtype::kF32;
    params.kv_dtype = Dtype::kF32;
    const float worst = compare(model, references, params);
    EXPECT_LT(worst, 1e-4f) << name << " on " << cpu_level_name(level);
    ::testing::Test::RecordProperty(name + "." + cpu_level_name(level), std::to_string(worst));
    // The models are bf16, so these weights are the same numbers; batches of odd sizes cross the cache's blocks.
    params.weight_dtype = Dtype::kBf16;
    params.batch = 37;
    EXPECT_LT(compare(model, references, params), 1e-4f) << name << " in bf16 on " << cpu_level_name(level);
    params.kv_dtype = Dtype::kF16;
    EXPECT_LT(compare(model, references, params), 2e-2f) << name << " with a f16 cache on " << cpu_level_name(level);
  }
}

TEST(Logits, GutenlmMatchesTransformers) { check(NWC_SOURCE_DIR "/models/gutenlm-2.6m", "gutenlm-2.6m"); }
TEST(Logits, Llama3ScalingUntiedGroupedMatchesTransformers) { check(kFixtures + "tiny-llama3", "tiny-llama3"); }
TEST(Logits, LinearScalingOddHeadsMatchesTransformers) { check(kFixtures + "tiny-linear", "tiny-linear"); }

TEST(Logits, WrongScalingWouldBeSeen) {
  PlainModel model = load_model(kFixtures + "tiny-llama3");
  const auto references = load_references(kFixtures + "tiny-llama3.logits.safetensors");
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  model.record.block().rope.scaling = RopeScaling::kNone;
  model.record.block().rope.factor = model.record.block().rope.low_freq_factor =
      model.record.block().rope.high_freq_factor = 0;
  model.record.block().rope.original_max_positions = 0;
  EXPECT_GT(compare(model, references, params), 1e-2f);
}

}  // namespace
}  // namespace nwc::test
