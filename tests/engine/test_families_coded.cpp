// Every family of models compressed: stored raw, the logits are those of transformers; coded, every session mode
// computes what the decoded weights give, and the C API decodes each tensor by its name.
#include <nwc/nwc.h>

#include "tests/encode/synthetic_codec.h"
#include "tests/engine/family_fixture.h"
#include "trainer/encode/encoder.h"

namespace nwc::test {
namespace {

class FamiliesCoded : public ::testing::TestWithParam<std::string> {};

/// A compressed family and what runs it.
struct Compressed {
  std::string path;
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<Runner> runner = make_thread_pool(2);
  std::unique_ptr<Decoder> decoder;
  uint64_t coded_weights = 0;

  Result<std::unique_ptr<Session>> open(const SessionParams& params) const {
    return Session::create(*file, *decoder, *runner, params);
  }
};

/// bits: 6 by default, as the tables are a good part of so small a file.
Compressed compress(const FamilyFixture& f, uint64_t min_elements, double bits = 6, bool refit_tables = true) {
  Compressed c;
  c.path = f.folder + "_" + std::to_string(min_elements) + ".nwc";
  auto source = open_model_source(f.folder);
  EXPECT_TRUE(source.ok()) << source.status().message();
  CompressOptions options;
  options.bits = bits;
  options.threads = 2;
  options.min_elements = min_elements;
  options.choices.refit_tables = refit_tables;
  const auto report = compress_model(**source, nwc::testing::synthetic_codec(), options, c.path, {}, {});
  EXPECT_TRUE(report.ok()) << report.status().message();
  if (report.ok()) c.coded_weights = report->coded_weights;
  auto reader = open_file_reader(c.path);
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  c.file = std::move(NwcFile::open(std::move(reader).value()).value());
  c.decoder = std::move(create_cpu_decoder(*c.file, *c.runner, detect_cpu_level()).value());
  return c;
}

SessionParams exact_params(const FamilyFixture& f) {
  SessionParams params;
  params.weight_dtype = Dtype::kF32;
  params.kv_dtype = Dtype::kF32;
  params.context = static_cast<uint32_t>(f.tokens.size());
  params.batch = 16;
  return params;
}

std::vector<float> one_by_one(Session& session, const std::vector<uint32_t>& tokens) {
  std::vector<float> logits(tokens.size() * session.vocab_size());
  session.reset();
  for (size_t t = 0; t < tokens.size(); ++t) {
    const Status status = session.eval(std::span(tokens).subspan(t, 1), LogitsWanted::kAll,
                                       std::span(logits).subspan(t * session.vocab_size(), session.vocab_size()));
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return logits;
}

float largest_of(const std::vector<float>& values) {
  float largest = 0;
  for (const float v : values) largest = std::max(largest, std::abs(v));
  return largest;
}

TEST_P(FamiliesCoded, RawStorageKeepsTheLogits) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const Compressed c = compress(f, uint64_t{1} << 40);
  EXPECT_EQ(c.coded_weights, 0u);
  auto session = c.open(exact_params(f));
  ASSERT_TRUE(session.ok()) << session.status().message();
  const std::vector<float> logits = all_logits(**session, f.tokens);
  const size_t vocab = (*session)->vocab_size();
  for (size_t i = 0; i < f.positions.size(); ++i) {
    EXPECT_LT(largest_difference(std::span(logits).subspan(f.positions[i] * vocab, vocab),
                                 std::span(f.logits).subspan(i * vocab, vocab)),
              1e-4f * largest_of(f.logits))
        << "position " << f.positions[i];
  }
}

TEST_P(FamiliesCoded, EveryModeComputesWithTheDecodedWeights) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const Compressed c = compress(f, 64);
  PlainModel decoded;
  decoded.record = *c.file->model();
  size_t matrices = 0;
  for (size_t i = 0; i < c.file->tensors().size(); ++i) {
    const TensorRecord& t = c.file->tensors()[i];
    // Routers and what else is no matrix of weights stays as it is.
    const bool router = t.name.find("router") != std::string::npos || t.name.ends_with("mlp.gate.weight") ||
                        t.name.ends_with("moe.gate.weight") || t.name.ends_with("shared_expert_gate.weight");
    const bool matrix = t.shape.size() == 2 && !router && !t.name.ends_with("_bias");
    EXPECT_EQ(t.storage == Storage::kCoded, matrix) << t.name;
    matrices += matrix;
    PlainTensor plain{t.shape, Dtype::kF32, std::vector<uint8_t>(t.num_elements() * sizeof(float))};
    DecodeRequest request;
    request.tensor = i;
    request.row_end = t.rows();
    request.dtype = Dtype::kF32;
    request.out = plain.bytes;
    ASSERT_TRUE(c.decoder->decode(request).ok());
    decoded.tensors[t.name] = std::move(plain);
  }
  EXPECT_GE(matrices, 17u);  // four in each layer, and the embedding
  SessionParams params = exact_params(f);
  Bench plain = make_bench(decoded, params);
  ASSERT_NE(plain.session, nullptr);
  const std::vector<float> expected = all_logits(*plain.session, f.tokens);

  params.mode = SessionMode::kResident;
  auto resident = c.open(params);
  ASSERT_TRUE(resident.ok()) << resident.status().message();
  EXPECT_EQ(all_logits(**resident, f.tokens), expected);
  const MemoryPlan plan = (*resident)->plan();
  ASSERT_LT(plan.needed_streamed, plan.total);

  const uint64_t between = (plan.needed_streamed + plan.total) / 2;
  for (const auto& [mode, budget] : {std::pair{SessionMode::kStreamed, uint64_t{0}},
                                     {SessionMode::kStreamed, plan.needed_streamed},
                                     {SessionMode::kCached, between},
                                     {SessionMode::kFused, uint64_t{0}},
                                     {SessionMode::kFused, plan.needed_fused},
                                     {SessionMode::kAuto, between}}) {
    params.mode = mode;
    params.memory_budget_bytes = budget;
    auto session = c.open(params);
    ASSERT_TRUE(session.ok()) << session.status().message();
    if (budget != 0) {
      EXPECT_LE((*session)->plan().total, budget);
    }
    const std::string what = "mode " + std::to_string(static_cast<int>(mode)) + ", budget " + std::to_string(budget);
    EXPECT_EQ(all_logits(**session, f.tokens), expected) << what;
    // Products with coded weights add in another order.
    const float allowed = 1e-4f * largest_of(expected);
    EXPECT_LT(largest_difference(one_by_one(**session, f.tokens), expected), allowed) << what << ", one by one";
  }
}

TEST_P(FamiliesCoded, TheCApiDecodesEveryName) {
  if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family(GetParam());
  const Compressed c = compress(f, 64);
  char why[512] = {};
  const nwc_error_detail error = {why, sizeof why};
  nwc_model* model = nullptr;
  ASSERT_EQ(nwc_model_open_path(c.path.c_str(), &error, &model), NWC_STATUS_OK) << why;
  nwc_decoder_params params;
  nwc_decoder_params_init(&params);
  params.backend = NWC_BACKEND_CPU;
  nwc_decoder* decoder = nullptr;
  ASSERT_EQ(nwc_decoder_create(model, &params, &error, &decoder), NWC_STATUS_OK) << why;
  const auto source = open_model_source(f.folder);  // the names are the checkpoint's
  ASSERT_TRUE(source.ok());
  ASSERT_EQ((*source)->tensors().size(), c.file->tensors().size());
  for (const SourceTensor& t : (*source)->tensors()) {
    const std::string& name = t.name;
    uint32_t tensor = 0;
    ASSERT_EQ(nwc_model_find_tensor(model, name.c_str(), &tensor), NWC_STATUS_OK) << name;
    const size_t index = c.file->find(name).value();
    const TensorRecord& record = c.file->tensors()[index];
    std::vector<uint8_t> ours(record.num_elements() * sizeof(float)), theirs(ours.size());
    DecodeRequest request;
    request.tensor = index;
    request.row_end = record.rows();
    request.dtype = Dtype::kF32;
    request.out = ours;
    ASSERT_TRUE(c.decoder->decode(request).ok());
    ASSERT_EQ(nwc_decoder_decode_tensor(decoder, tensor, NWC_DTYPE_F32, nullptr, nullptr, theirs.data(), theirs.size()),
              NWC_STATUS_OK)
        << name << ": " << nwc_decoder_last_error(decoder);
    EXPECT_EQ(ours, theirs) << name;
  }
  nwc_decoder_destroy(decoder);
  nwc_model_destroy(model);
}

/// Makes one weight in 19 of the tensor eight times as large, in the folder's file: one or two in a row, in no column
/// all.
void make_spiky(const FamilyFixture& f, const std::string& name) {
  std::fstream file(f.folder + "/model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
  uint64_t size = 0;
  file.read(reinterpret_cast<char*>(&size), sizeof(size));
  std::string header(static_cast<size_t>(size), ' ');
  file.read(header.data(), static_cast<std::streamsize>(size));
  const auto offsets = nlohmann::json::parse(header)[name]["data_offsets"].get<std::vector<uint64_t>>();
  std::vector<float> values(static_cast<size_t>((offsets[1] - offsets[0]) / sizeof(float)));
  const auto at = static_cast<std::streamoff>(sizeof(size) + size + offsets[0]);
  const auto bytes = static_cast<std::streamsize>(values.size() * sizeof(float));
  file.seekg(at).read(reinterpret_cast<char*>(values.data()), bytes);
  for (size_t i = 0; i < values.size(); i += 19) values[i] *= 8;
  file.seekp(at).write(reinterpret_cast<const char*>(values.data()), bytes);
  ASSERT_TRUE(file.good()) << name;
}

/// An expert that is decoded in the middle of a sequence and does not fit the bits that tables promise has all be held
/// as bytes from then on, which gives the same logits. Tables of a Gaussian promise fewer large weights than there are.
TEST(FamiliesCodedExperts, WhatDoesNotFitItsBitsIsHeldAsBytes) {
  if (family_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/families is not here";
  const FamilyFixture f = make_family("qwen2_moe");
  for (const char* part : {"gate", "up", "down"})
    ASSERT_NO_FATAL_FAILURE(make_spiky(f, "model.layers.0.mlp.experts.0." + std::string(part) + "_proj.weight"));
  const Compressed c = compress(f, 64, 3, false);
  SessionParams params = exact_params(f);
  params.mode = SessionMode::kStreamed;
  params.batch = 4;
  params.integers = IntegerWeights::kQ8;
  auto bytes = c.open(params);
  ASSERT_TRUE(bytes.ok()) << bytes.status().message();
  const std::vector<float> expected = one_by_one(**bytes, f.tokens);
  params.integers = IntegerWeights::kPacked;
  auto packed = c.open(params);
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  EXPECT_EQ((*packed)->plan().integers, IntegerWeights::kPacked);
  EXPECT_EQ(one_by_one(**packed, f.tokens), expected);
  EXPECT_EQ((*packed)->plan().integers, IntegerWeights::kQ8);
}

INSTANTIATE_TEST_SUITE_P(All, FamiliesCoded, ::testing::ValuesIn(family_names()),
                         [](const auto& i) { return i.param; });

}  // namespace
}  // namespace nwc::test
