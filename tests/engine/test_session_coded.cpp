// Sessions on files whose tensors are neural-coded, through the real CPU decoder.
#include <bit>
#include <cmath>

#include "runtime/engine/buffer.h"
#include "runtime/engine/layer_stream.h"
#include "runtime/engine/weight_type.h"
#include "tests/encode/test_source.h"
#include "tests/engine/coded_model.h"

namespace nwc::test {
namespace {

struct CodedSession {
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<Runner> runner, decode_runner;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<Session> session;
  Status status;
};

CodedSession open_coded(std::vector<uint8_t> bytes, const SessionParams& params, bool share_runner) {
  CodedSession c;
  auto file = NwcFile::open(make_owned_reader(std::move(bytes)));
  EXPECT_TRUE(file.ok()) << file.status().message();
  c.file = std::move(file).value();
  c.runner = make_thread_pool(2);
  c.decode_runner = make_thread_pool(2);
  c.decoder =
      std::move(create_cpu_decoder(*c.file, share_runner ? *c.runner : *c.decode_runner, detect_cpu_level()).value());
  auto session = Session::create(*c.file, *c.decoder, *c.runner, params);
  c.status = session.status();
  if (session.ok()) c.session = std::move(session).value();
  return c;
}

// A row that a token needs does not wait for a whole matrix: a layer is decoded in pieces, of whole pairs of bands of
// tiles. These matrices have bands of 368 rows and more, as real ones have others than powers of two.
TEST(SessionCoded, LayersComeInPieces) {
  nwc::testing::MemorySource source;
  source.add_gaussian("up", 1100, 64, 1);
  source.add_gaussian("down", 4000, 48, 2);
  const std::string path = ::testing::TempDir() + "pieces_" + std::to_string(std::random_device()()) + ".nwc";
  CompressOptions options;
  options.bits = 4;
  ASSERT_TRUE(compress_model(source, nwc::testing::synthetic_codec(), options, path, {}, {}).ok());
  auto file = NwcFile::open(open_file_reader(path).value());
  std::filesystem::remove(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const size_t up = *(*file)->find("up"), down = *(*file)->find("down");
  EXPECT_NE(std::popcount((*file)->tensors()[up].tile_rows), 1);
  ModelLayout layout;
  layout.model.tied_embeddings = true;
  layout.embedding = layout.head = up;
  layout.layers.resize(1);
  layout.layers[0].matrices = {{Role::kUp, up, 1100, 64, 0}, {Role::kDown, down, 4000, 48, 1100 * 64}};
  layout.layers[0].elements = 1100 * 64 + 4000 * 48;
  const auto runner = make_thread_pool(2);
  const auto decoder = std::move(create_cpu_decoder(**file, *runner, detect_cpu_level()).value());
  const auto integers = hold_integers(**file, layout, false, true);
  ASSERT_TRUE(integers.ok()) << integers.status().message();
  const HeldWeights floats = hold_floats(layout, Dtype::kF32);
  for (const HeldWeights* held : {&floats, &integers->q8, &integers->packed}) {
    WeightSource weights(**file, *decoder, layout, *held, true, 0);  // no workers: the smallest pieces
    HostMemory memory;
    Buffer whole, pieces;
    for (Buffer* buffer : {&whole, &pieces}) {
      ASSERT_TRUE(buffer->allocate(held->layers[0].bytes, &memory, "a layer").ok());
      std::fill_n(buffer->data(), buffer->size(), uint8_t{0});
    }
    ASSERT_TRUE(weights.decode_layer(0, {whole.data(), whole.size()}).ok());
    uint32_t piece = 0;
    for (bool last = false; !last; ++piece) {
      const auto done = weights.decode_layer_piece(0, piece, {pieces.data(), pieces.size()});
      ASSERT_TRUE(done.ok()) << done.status().message();
      last = *done;
    }
    EXPECT_TRUE(std::equal(whole.data(), whole.data() + whole.size(), pieces.data()));
    EXPECT_GT(piece, 2u) << "more pieces than matrices";
  }
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}

// Integers are the weights: logits are those of f32, in every mode, whatever goes through the layers together.
TEST(SessionCoded, IntegersGiveTheLogitsOfF32) {
  const std::vector<uint32_t> tokens = random_tokens(70, 1024, 3);
  SessionParams params;
  params.batch = 32;
  params.weight_dtype = params.kv_dtype = Dtype::kF32;
  CodedSession exact = open_coded(compressed_bytes(), params, true);
  ASSERT_TRUE(exact.status.ok()) << exact.status.message();
  const std::vector<float> expected = all_logits(*exact.session, tokens);
  params.weight_dtype = Dtype::kF16;
  CodedSession half = open_coded(compressed_bytes(), params, true);
  const double half_off = largest_difference(all_logits(*half.session, tokens), expected);
  std::vector<float> q8;
  for (const IntegerWeights which : {IntegerWeights::kQ8, IntegerWeights::kPacked}) {
    params.integers = which;
    params.mode = SessionMode::kResident;
    params.memory_budget_bytes = 0;
    CodedSession resident = open_coded(compressed_bytes(), params, true);
    ASSERT_TRUE(resident.status.ok()) << resident.status.message();
    const MemoryPlan plan = resident.session->plan();
    EXPECT_EQ(plan.integers, which);
    EXPECT_LT(plan.weights * 10, half.session->plan().weights * (which == IntegerWeights::kQ8 ? 7 : 6));
    EXPECT_LE(resident.session->allocated_bytes(), plan.total);
    const std::vector<float> logits = all_logits(*resident.session, tokens);
    EXPECT_LT(largest_difference(logits, expected), half_off / 2) << info_of(weight_type(which, Dtype::kF16)).name;
    if (q8.empty()) q8 = logits;
    EXPECT_EQ(logits, q8) << "the form is chosen by its speed";
    params.mode = SessionMode::kStreamed;
    for (const bool share_runner : {false, true}) {
      CodedSession streamed = open_coded(compressed_bytes(), params, share_runner);
      ASSERT_TRUE(streamed.status.ok()) << streamed.status.message();
      EXPECT_EQ(all_logits(*streamed.session, tokens), logits);
    }
    params.mode = SessionMode::kCached;
    params.memory_budget_bytes = (plan.needed_resident + plan.needed_streamed) / 2;
    CodedSession cached = open_coded(compressed_bytes(), params, true);
    ASSERT_TRUE(cached.status.ok()) << cached.status.message();
    EXPECT_LE(cached.session->plan().total, params.memory_budget_bytes);
    EXPECT_LT(largest_difference(all_logits(*cached.session, tokens), logits), half_off / 2);
    params.mode = SessionMode::kFused;
    params.memory_budget_bytes = 0;
    CodedSession fused = open_coded(compressed_bytes(), params, true);
    ASSERT_TRUE(fused.status.ok()) << fused.status.message();
    std::vector<float> last(1024);
    ASSERT_TRUE(fused.session->eval(tokens, LogitsWanted::kLast, last).ok());
    const std::vector<float> want(expected.end() - 1024, expected.end());
    EXPECT_LT(largest_difference(last, want), half_off / 2);
  }
}

// With a network integers are its weights, rounded: for those who ask for it, and by less than the codec changed.
TEST(SessionCoded, ANetworksWeightsAreRequantized) {
  const std::vector<uint8_t> bytes = network_compressed_bytes();
  const std::vector<uint32_t> tokens = random_tokens(70, 1024, 3);
  SessionParams params;
  params.batch = 32;
  params.weight_dtype = params.kv_dtype = Dtype::kF32;
  CodedSession exact = open_coded(bytes, params, true);
  ASSERT_TRUE(exact.status.ok()) << exact.status.message();
  const std::vector<float> expected = all_logits(*exact.session, tokens);
  Bench original = make_bench(load_model(NWC_SOURCE_DIR "/models/gutenlm-2.6m"), params);
  const double coding = largest_difference(all_logits(*original.session, tokens), expected);
  params.weight_dtype = Dtype::kF16;
  CodedSession half = open_coded(bytes, params, true);
  const uint64_t half_bytes = half.session->plan().weights;
  std::vector<float> q8;
  for (const IntegerWeights which : {IntegerWeights::kQ8, IntegerWeights::kPacked}) {
    params.integers = which;
    params.mode = SessionMode::kResident;
    CodedSession resident = open_coded(bytes, params, true);
    ASSERT_TRUE(resident.status.ok()) << resident.status.message();
    const MemoryPlan& plan = resident.session->plan();
    EXPECT_EQ(plan.integers, which);
    EXPECT_TRUE(plan.requantized);
    EXPECT_EQ(plan.integers_note, "");
    EXPECT_LT(plan.weights * 10, half_bytes * 6);
    EXPECT_LE(resident.session->allocated_bytes(), plan.total);
    const std::vector<float> logits = all_logits(*resident.session, tokens);
    EXPECT_LT(largest_difference(logits, expected), coding / 5);
    if (q8.empty()) q8 = logits;
    EXPECT_EQ(logits, q8) << "packed holds the same";
    params.mode = SessionMode::kStreamed;
    CodedSession streamed = open_coded(bytes, params, false);
    ASSERT_TRUE(streamed.status.ok()) << streamed.status.message();
    EXPECT_EQ(all_logits(*streamed.session, tokens), logits);
  }
  params.mode = SessionMode::kAuto;
  auto file = NwcFile::open(make_owned_reader(bytes));
  const auto asked = plan_session(**file, params);
  ASSERT_TRUE(asked.ok() && asked->forms != nullptr);
  params.forms = asked->forms;
  params.integers = IntegerWeights::kAuto;
  const auto chosen = plan_session(**file, params);
  ASSERT_TRUE(chosen.ok());
  EXPECT_EQ(chosen->integers, IntegerWeights::kNone);
  EXPECT_EQ(chosen->weights, half_bytes);
  params.integers = IntegerWeights::kQ8;
  params.compute = Compute::kVulkan;
  const auto device = plan_session(**file, params);
  ASSERT_TRUE(device.ok());
  EXPECT_EQ(device->integers, IntegerWeights::kQ8);
  EXPECT_TRUE(device->requantized);
}

TEST(SessionCoded, APlanTakesOverWhatAnEarlierOneFoundOut) {
  auto file = NwcFile::open(make_owned_reader(compressed_bytes()));
  ASSERT_TRUE(file.ok());
  SessionParams params;
  params.integers = IntegerWeights::kAuto;
  const auto first = plan_session(**file, params);
  ASSERT_TRUE(first.ok() && first->forms != nullptr);
  params.forms = first->forms;
  const auto again = plan_session(**file, params);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->held, first->held);
  EXPECT_EQ(again->total, first->total);
  params.integers = IntegerWeights::kQ8;
  const auto bytes = plan_session(**file, params);
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(bytes->integers, IntegerWeights::kQ8);
  EXPECT_EQ(bytes->held.get(), &first->forms->q8);
  EXPECT_GT(bytes->weights, first->weights);
}

// auto takes the form that is the faster one by the rates that it is given, where both fit.
TEST(SessionCoded, AutoChoosesByRatesAndBudget) {
  auto file = NwcFile::open(make_owned_reader(compressed_bytes()));
  ASSERT_TRUE(file.ok());
  SessionParams params;
  params.integers = IntegerWeights::kAuto;
  params.batch = 16;
  const auto plan = [&](WeightChoice choice, IntegerWeights which) {
    const auto made = plan_session(**file, params);
    EXPECT_TRUE(made.ok()) << made.status().message();
    EXPECT_EQ(made->choice, choice);
    EXPECT_EQ(made->integers, which);
    EXPECT_EQ(made->held->which, which);
    EXPECT_LT(made->packed_bytes, made->q8_bytes);
    EXPECT_LT(made->q8_bytes, made->f16_bytes);
    EXPECT_LE(made->weights,
              which == IntegerWeights::kQ8 ? made->q8_bytes + (64 << 10) : made->packed_bytes + (64 << 10));
    return *made;
  };
  const MemoryPlan unmeasured = plan(WeightChoice::kNotMeasured, IntegerWeights::kPacked);
  EXPECT_EQ(unmeasured.q8_per_second, 0);
  IntegerRates& rates = params.integer_rates;
  std::fill(std::begin(rates.per_second), std::end(rates.per_second), 1e9);
  const MemoryPlan even = plan(WeightChoice::kFaster, IntegerWeights::kPacked);
  EXPECT_NEAR(even.q8_per_second, 1e9, 5e7);
  EXPECT_LE(even.packed_per_second, even.q8_per_second) << "it has more outliers";
  rates.per_second[3] = 2e9;  // 8 bits
  const MemoryPlan q8 = plan(WeightChoice::kFaster, IntegerWeights::kQ8);
  EXPECT_GT(q8.q8_per_second, 1.05 * q8.packed_per_second);
  params.memory_budget_bytes = q8.total - 1;
  plan(WeightChoice::kSmaller, IntegerWeights::kPacked);
  params.memory_budget_bytes = q8.total;
  plan(WeightChoice::kFaster, IntegerWeights::kQ8);
  rates.per_second[3] = 1e8;
  plan(WeightChoice::kFaster, IntegerWeights::kPacked);
  params.memory_budget_bytes = 0;
  params.mode = SessionMode::kStreamed;
  rates.per_second[3] = 2e9;
  plan(WeightChoice::kSmaller, IntegerWeights::kPacked);
  params.mode = SessionMode::kAuto;
  params.integers = IntegerWeights::kPacked;
  plan(WeightChoice::kAsked, IntegerWeights::kPacked);

  // Sessions do as their plans say, to the same logits.
  params.integers = IntegerWeights::kAuto;
  const std::vector<uint32_t> tokens = random_tokens(40, 1024, 3);
  std::vector<float> logits;
  for (const double q8_rate : {2e9, 1e8}) {
    rates.per_second[3] = q8_rate;
    CodedSession made = open_coded(compressed_bytes(), params, true);
    ASSERT_TRUE(made.status.ok()) << made.status.message();
    EXPECT_EQ(made.session->plan().integers, q8_rate > 1e9 ? IntegerWeights::kQ8 : IntegerWeights::kPacked);
    const std::vector<float> of_form = all_logits(*made.session, tokens);
    if (logits.empty()) logits = of_form;
    EXPECT_EQ(of_form, logits);
  }
}

TEST(SessionCoded, StreamedEqualsResidentEqualsDecodedFirst) {
  const std::vector<uint32_t> tokens = random_tokens(70, 1024, 1);
  SessionParams params;
  params.batch = 32;
  CodedSession resident = open_coded(compressed_bytes(), params, true);
  ASSERT_TRUE(resident.status.ok()) << resident.status.message();
  const std::vector<float> expected = all_logits(*resident.session, tokens);

  params.mode = SessionMode::kStreamed;
  for (bool share_runner : {false, true}) {
    for (uint64_t budget : {uint64_t{0}, resident.session->plan().needed_streamed}) {
      params.memory_budget_bytes = budget;
      CodedSession streamed = open_coded(compressed_bytes(), params, share_runner);
      ASSERT_TRUE(streamed.status.ok()) << streamed.status.message();
      EXPECT_EQ(all_logits(*streamed.session, tokens), expected);
    }
  }

  // The same weights decoded to f16 beforehand and stored raw.
  PlainModel decoded;
  decoded.record = *resident.file->model();
  size_t coded = 0;
  for (size_t i = 0; i < resident.file->tensors().size(); ++i) {
    const TensorRecord& t = resident.file->tensors()[i];
    coded += t.storage == Storage::kCoded;
    const bool norm = t.shape.size() == 1;
    PlainTensor plain{t.shape, norm ? Dtype::kF32 : Dtype::kF16, {}};
    plain.bytes.resize(t.num_elements() * dtype_size(plain.dtype));
    DecodeRequest request;
    request.tensor = i;
    request.row_end = t.rows();
    request.dtype = plain.dtype;
    request.out = plain.bytes;
    ASSERT_TRUE(resident.decoder->decode(request).ok());
    decoded.tensors[t.name] = std::move(plain);
  }
  EXPECT_GE(coded, 42u) << "seven matrices in six layers";
  params = {};
  params.batch = 32;
  Bench plain = make_bench(decoded, params);
  EXPECT_EQ(all_logits(*plain.session, tokens), expected);

  // And close to the original.
  Bench original = make_bench(load_model(NWC_SOURCE_DIR "/models/gutenlm-2.6m"), params);
  const std::vector<float> reference = all_logits(*original.session, tokens);
  double error = 0, power = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    error += std::pow(reference[i] - expected[i], 2);
    power += std::pow(reference[i], 2);
  }
  EXPECT_LT(error, 0.02 * power);
  EXPECT_GT(error, 0);
}

// Products with the coded weights: of one token at a time, in the layers and in the head; more tokens are decoded for.
TEST(SessionCoded, FusedAgreesWithResident) {
  const std::vector<uint32_t> tokens = random_tokens(40, 1024, 3);
  SessionParams params;
  params.batch = 32;
  params.weight_dtype = params.kv_dtype = Dtype::kF32;  // as exact as fused products are
  CodedSession resident = open_coded(compressed_bytes(), params, true);
  ASSERT_TRUE(resident.status.ok()) << resident.status.message();
  const std::vector<float> expected = all_logits(*resident.session, tokens);

  params.mode = SessionMode::kFused;
  CodedSession fused = open_coded(compressed_bytes(), params, true);
  ASSERT_TRUE(fused.status.ok()) << fused.status.message();
  const MemoryPlan& plan = fused.session->plan();
  EXPECT_EQ(plan.mode, SessionMode::kFused);
  EXPECT_EQ(fused.session->allocated_bytes(), plan.weights + plan.layer_buffers + plan.kv_cache + plan.activations);
  EXPECT_LT(plan.weights + plan.layer_buffers, resident.session->plan().weights / 3);
  EXPECT_EQ(all_logits(*fused.session, tokens), expected) << "many at once are decoded for";

  fused.session->reset();
  std::vector<float> logits(1024);
  double largest = 0, error = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    ASSERT_TRUE(fused.session->eval(std::span(tokens).subspan(i, 1), LogitsWanted::kLast, logits).ok());
    for (size_t v = 0; v < logits.size(); ++v) {
      largest = std::max(largest, std::abs(static_cast<double>(expected[i * 1024 + v])));
      error = std::max(error, std::abs(static_cast<double>(logits[v] - expected[i * 1024 + v])));
    }
  }
  EXPECT_LT(error, 1e-4 * largest);
  EXPECT_GT(error, 0) << "not the same additions";

  params.memory_budget_bytes = plan.total - 1;
  EXPECT_EQ(open_coded(compressed_bytes(), params, true).status.code(), StatusCode::kBudget);
}

TEST(SessionCoded, FusedKeepsWhatTheBudgetHasRoomFor) {
  const std::vector<uint32_t> tokens = random_tokens(12, 1024, 3);
  SessionParams params;
  params.batch = 8;
  params.weight_dtype = params.kv_dtype = Dtype::kF32;
  CodedSession resident = open_coded(compressed_bytes(), params, true);
  ASSERT_TRUE(resident.status.ok()) << resident.status.message();
  const std::vector<float> expected = all_logits(*resident.session, tokens);
  const MemoryPlan& most = resident.session->plan();
  const uint32_t layers = most.resident_layers;
  ASSERT_LT(most.needed_fused, most.total);

  params.mode = SessionMode::kFused;
  std::vector<bool> seen(layers + 1);
  for (uint64_t budget = most.needed_fused; budget < most.total; budget += (most.total - most.needed_fused) / 12) {
    params.memory_budget_bytes = budget;
    CodedSession fused = open_coded(compressed_bytes(), params, true);
    ASSERT_TRUE(fused.status.ok()) << fused.status.message();
    const MemoryPlan& plan = fused.session->plan();
    EXPECT_EQ(plan.mode, SessionMode::kFused);
    EXPECT_LE(plan.total, budget);
    EXPECT_EQ(fused.session->allocated_bytes(), plan.weights + plan.layer_buffers + plan.kv_cache + plan.activations);
    if (seen[plan.resident_layers]) continue;
    seen[plan.resident_layers] = true;
    std::vector<float> logits(1024);
    for (size_t i = 0; i < tokens.size(); ++i) {
      ASSERT_TRUE(fused.session->eval(std::span(tokens).subspan(i, 1), LogitsWanted::kLast, logits).ok());
      for (size_t v = 0; v < logits.size(); ++v) ASSERT_NEAR(logits[v], expected[i * 1024 + v], 1e-3);
    }
  }
  EXPECT_TRUE(seen[0] && seen[layers / 2]) << "none and some of the layers are kept";
}

TEST(SessionCoded, DamagedTilesAreReported) {
  SessionParams params;
  params.batch = 32;
  params.mode = SessionMode::kStreamed;
  const auto file = NwcFile::open(make_owned_reader(compressed_bytes()));
  ASSERT_TRUE(file.ok());
  const size_t tensor = *(*file)->find("model.layers.3.mlp.down_proj.weight");
  const auto coded = (*file)->load_coded(tensor, true);
  ASSERT_TRUE(coded.ok());
  std::vector<uint8_t> damaged = compressed_bytes();
  damaged[coded->tiles.back().offset + coded->tiles.back().size / 2] ^= 1u;

  CodedSession streamed = open_coded(damaged, params, false);
  ASSERT_TRUE(streamed.status.ok()) << "creation touches no layer";
  const std::vector<uint32_t> tokens = random_tokens(20, 1024, 2);
  for (int i = 0; i < 3; ++i) {
    const Status status = streamed.session->eval(tokens, LogitsWanted::kNone, {});
    EXPECT_EQ(status.code(), StatusCode::kChecksum);
    EXPECT_NE(status.message().find("model.layers.3.mlp.down_proj.weight"), std::string::npos) << status.message();
    EXPECT_EQ(streamed.session->position(), 0u);
  }
  params.mode = SessionMode::kFused;
  CodedSession fused = open_coded(damaged, params, false);
  ASSERT_TRUE(fused.status.ok());
  for (int i = 0; i < 2; ++i) {
    const Status status = fused.session->eval(std::span(tokens).first(1), LogitsWanted::kNone, {});
    EXPECT_EQ(status.code(), StatusCode::kChecksum);
    EXPECT_NE(status.message().find("model.layers.3.mlp.down_proj.weight"), std::string::npos) << status.message();
  }
  params.mode = SessionMode::kResident;
  EXPECT_EQ(open_coded(damaged, params, false).status.code(), StatusCode::kChecksum);
}

}  // namespace
}  // namespace nwc::test
