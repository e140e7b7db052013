// Encoders of texts and of images calibrated and compressed: their embeddings are closer to the original's than those
// of a file that was made without.
#include <nlohmann/json.hpp>

#include "tests/data/temp_dir.h"
#include "tests/engine/encoder_fixture.h"
#include "trainer/calib/calibration.h"
#include "trainer/codec/identity_codec.h"
#include "trainer/encode/encoder.h"

namespace nwc::test {
namespace {

constexpr uint32_t kInputs = 96, kHeldOut = 32, kTextTokens = 12;

/// A fixture of an encoder, with texts or pictures that nobody has seen.
class EncoderCalibration : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/encoders is not here";
    fixture_ = make_encoder(GetParam());
    auto source = open_model_source(fixture_.folder);
    ASSERT_TRUE(source.ok()) << source.status().message();
    source_ = std::move(source).value();
    runner_ = make_thread_pool(2);
    exact_ = session_of(load_model(fixture_.folder));
    ASSERT_NE(exact_.session, nullptr);
  }

  const ModelRecord& model() const { return *source_->model(); }
  bool of_images() const { return model().ends.encoder.of_images(); }

  static Bench session_of(const PlainModel& model) {
    SessionParams params;
    params.weight_dtype = params.kv_dtype = Dtype::kF32;
    return make_bench(model, params);
  }

  /// Number i of the pictures: noise with some structure.
  std::vector<float> pixels(uint32_t i) const {
    const EncoderSpec& e = model().ends.encoder;
    std::vector<float> out(size_t{e.channels} * e.image_height * e.image_width);
    for (size_t p = 0; p < out.size(); ++p) {
      const double x = static_cast<double>(p % e.image_width), y = static_cast<double>(p / e.image_width);
      out[p] = static_cast<float>(std::sin(0.3 * (i % 7) * x + 0.2 * (i % 5) * y + i)) +
               family_number("picture " + std::to_string(i), p);
    }
    return out;
  }
  /// Number i of the texts: every one ends with the end token where the model looks for it.
  std::vector<uint32_t> text(uint32_t i) const {
    std::vector<uint32_t> out;
    for (uint32_t t = 0; t < kTextTokens; ++t) {
      const float x = family_number("text " + std::to_string(i), t);
      out.push_back(static_cast<uint32_t>(std::abs(x) * 1e6f) % model().vocab_size);
    }
    if (!model().eos_ids.empty()) out.back() = model().eos_ids.front();
    return out;
  }

  CalibrationInput input() {
    CalibrationInput input;
    if (of_images()) {
      input.tokens = [this](const std::string&) {
        std::vector<uint32_t> out;
        for (uint32_t i = 0; i < kInputs; ++i) out.insert(out.end(), model().max_positions, i);
        return Result<std::vector<uint32_t>>(out);
      };
      input.states = [this](std::span<const uint32_t> images) -> Result<std::vector<float>> {
        std::vector<float> out;
        for (const uint32_t i : images) {
          NWC_ASSIGN_OR_RETURN(const std::span<const float> states, exact_.session->image_states(pixels(i)));
          out.insert(out.end(), states.begin(), states.end());
        }
        return out;
      };
    } else {
      input.tokens = [this](const std::string&) {
        std::vector<uint32_t> out;
        for (uint32_t i = 0; i < kInputs; ++i) {
          const std::vector<uint32_t> one = text(i);
          out.insert(out.end(), one.begin(), one.end());
        }
        return Result<std::vector<uint32_t>>(out);
      };
    }
    return input;
  }

  CalibrationOptions options() const {
    CalibrationOptions out;
    out.tokens = uint64_t{kInputs} * (of_images() ? model().max_positions : kTextTokens);
    out.context = kTextTokens;
    return out;
  }

  std::vector<float> embed(Session& session, uint32_t i) const {
    std::vector<float> out(model().embedding_size());
    const Status status = of_images() ? session.embed_image(pixels(i), {}, out) : session.embed(text(i), {}, out);
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  }

  /// Mean squared change of the embeddings of inputs that calibration has not seen. drift: corrected
  double error_of(const Calibration* calibration, bool drift = false) {
    CompressOptions options;
    options.bits = 5;  // of which side information and states of matrices as small as these take more than one
    options.threads = 2;
    options.min_elements = 256;
    options.calibration = calibration;
    options.recovery.drift.enabled = drift;
    options.recovery.context = kTextTokens;
    if (drift) options.recovery.tokens = *input().tokens("");
    // As `nwc compress` chooses.
    options.choices.rdo_strength = calibration != nullptr ? 0 : 0.5;
    options.choices.shrinkage = calibration == nullptr;
    const std::string path = dir_.file("model.nwc");
    const auto report = compress_model(*source_, identity_codec(), options, path, {}, {});
    EXPECT_TRUE(report.ok()) << report.status().message();
    auto reader = open_file_reader(path);
    EXPECT_TRUE(reader.ok());
    auto file = NwcFile::open(std::move(reader).value());
    EXPECT_TRUE(file.ok()) << file.status().message();
    if (!file.ok()) return NAN;
    auto decoder = create_cpu_decoder(**file, *runner_, detect_cpu_level());
    EXPECT_TRUE(decoder.ok()) << decoder.status().message();
    SessionParams params;
    params.weight_dtype = params.kv_dtype = Dtype::kF32;
    auto coded = Session::create(**file, **decoder, *runner_, params);
    EXPECT_TRUE(coded.ok()) << coded.status().message();
    if (!coded.ok()) return NAN;
    double sum = 0;
    for (uint32_t i = kInputs; i < kInputs + kHeldOut; ++i) {
      const std::vector<float> wanted = embed(*exact_.session, i), got = embed(**coded, i);
      for (size_t j = 0; j < got.size(); ++j) sum += std::pow(double{got[j]} - double{wanted[j]}, 2);
    }
    return sum / kHeldOut;
  }

  const TempDir dir_;
  EncoderFixture fixture_;
  std::unique_ptr<ModelSource> source_;
  std::unique_ptr<Runner> runner_;
  Bench exact_;
};

TEST_P(EncoderCalibration, BringsTheEmbeddingsCloser) {
  const std::string folder = dir_.file("calibration");
  const auto run = [&](const CalibrationInput& of) {
    return Calibration::run(*source_, of, options(), [&](const std::string&) { return Result<std::string>(folder); },
                            *runner_, {}, {});
  };
  const auto calibration = run(input());
  ASSERT_TRUE(calibration.ok()) << calibration.status().message();
  EXPECT_EQ((*calibration)->tokens(), options().tokens);
  const double with = error_of(calibration->get()), without = error_of(nullptr);
  EXPECT_LT(with, without) << GetParam();
  // What enters the blocks, with its types and norm, is what the coded encoder has.
  if (!of_images()) {
    EXPECT_LT(error_of(calibration->get(), true), 1.05 * with) << GetParam();
  }
  RecordProperty("squared_change_calibrated", std::to_string(with));
  RecordProperty("squared_change_data_free", std::to_string(without));

  CalibrationInput wrong = input();
  if (of_images()) {
    wrong.states = {};
  } else {
    wrong.states = [](std::span<const uint32_t>) { return Result<std::vector<float>>(std::vector<float>()); };
  }
  EXPECT_EQ(run(wrong).status().code(), StatusCode::kUnsupported);
}

INSTANTIATE_TEST_SUITE_P(Encoders, EncoderCalibration, ::testing::ValuesIn(encoder_names()),
                         [](const auto& of) { return of.param; });

TEST(CalibrationOfImages, StatesOfAnotherSizeAreRefused) {
  if (encoder_names().front() == kNoFixtures) GTEST_SKIP() << "tests/fixtures/encoders is not here";
  const EncoderFixture f = make_encoder("vit");
  const auto source = open_model_source(f.folder);
  ASSERT_TRUE(source.ok());
  const auto runner = make_thread_pool(1);
  const TempDir dir;
  CalibrationInput input;
  const uint32_t tokens = (*source)->model()->max_positions;
  input.tokens = [&](const std::string&) { return Result<std::vector<uint32_t>>(std::vector<uint32_t>(tokens, 1)); };
  input.states = [](std::span<const uint32_t>) { return Result<std::vector<float>>(std::vector<float>(3)); };
  const auto run = Calibration::run(**source, input, {},
                                    [&](const std::string&) { return Result<std::string>(dir.file("calibration")); },
                                    *runner, {}, {});
  EXPECT_EQ(run.status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nwc::test
