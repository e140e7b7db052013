// Training as a whole: it learns, and it is the same at any thread count, after a resumption, and twice over.
#include <gmock/gmock.h>

#include "train_fixture.h"
#include "trainer/train/freeze.h"

namespace nwc {
namespace {

using testing::HasSubstr;

std::string without_seconds(const std::string& line) { return line.substr(0, line.find(",\"seconds\"")); }

RunOptions make_run(uint32_t threads, const std::string& output, const std::string& checkpoint = "",
                    const std::string& log = "") {
  RunOptions run;
  run.threads = threads;
  run.output = output;
  run.checkpoint = checkpoint;
  run.checkpoint_seconds = 0;
  run.log = log;
  return run;
}

class TrainerTest : public TrainTest {
 protected:
  Trainer create(const TrainOptions& options) {
    Result<Trainer> trainer = Trainer::create(options, correlated_chunks(1024, 0.5));
    EXPECT_TRUE(trainer.ok()) << trainer.status().message();
    return std::move(trainer).value();
  }
};

TEST_F(TrainerTest, SameBytesAtAnyThreadCount) {
  for (const Preset preset : {Preset::kLinear, Preset::kSmall}) {
    const TrainOptions options = tiny_options(preset);
    for (const uint32_t threads : {1u, 2u, 3u}) {
      const std::string name = std::to_string(threads);
      const Status status =
          create(options).run(make_run(threads, path(name), path(name + ".nwck"), path(name + ".log")));
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_FALSE(file_bytes(path(name)).empty());
      EXPECT_EQ(file_bytes(path(name)), file_bytes(path("1")));
      EXPECT_EQ(file_bytes(path(name + ".nwck")), file_bytes(path("1.nwck")));
      const auto lines = file_lines(path(name + ".log")), expected = file_lines(path("1.log"));
      ASSERT_EQ(lines.size(), expected.size());
      for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(without_seconds(lines[i]), without_seconds(expected[i]));
    }
  }
}

TEST_F(TrainerTest, AnotherSeedGivesAnotherCodec) {
  TrainOptions options = tiny_options(Preset::kLinear);
  ASSERT_TRUE(create(options).run(make_run(1, path("a"))).ok());
  options.data.seed = 2;
  ASSERT_TRUE(create(options).run(make_run(1, path("b"))).ok());
  EXPECT_NE(file_bytes(path("a")), file_bytes(path("b")));
}

TEST_F(TrainerTest, ResumedRunEndsInTheSameBytes) {
  for (const Preset preset : {Preset::kLinear, Preset::kSmall}) {
    const TrainOptions options = tiny_options(preset);
    ASSERT_TRUE(create(options).run(make_run(2, path("whole"), path("whole.nwck"), path("whole.log"))).ok());
    const Status cancelled = create(options).run(make_run(2, path("never"), path("part.nwck"), path("part.log")),
                                                 [](const TrainProgress& p) { return p.step < 20; });
    EXPECT_EQ(cancelled.code(), StatusCode::kCancelled);
    EXPECT_FALSE(std::filesystem::exists(path("never")));

    Result<Trainer> resumed = Trainer::resume(path("part.nwck"), correlated_chunks(1024, 0.5));
    ASSERT_TRUE(resumed.ok()) << resumed.status().message();
    EXPECT_EQ(resumed->step(), 20u);
    ASSERT_TRUE(resumed->run(make_run(1, path("part"), path("part.nwck"), path("part.log"))).ok());
    EXPECT_EQ(file_bytes(path("part")), file_bytes(path("whole")));
    EXPECT_EQ(file_bytes(path("part.nwck")), file_bytes(path("whole.nwck")));
    const auto lines = file_lines(path("part.log")), expected = file_lines(path("whole.log"));
    ASSERT_EQ(lines.size(), expected.size());
    for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(without_seconds(lines[i]), without_seconds(expected[i]));
  }
}

TEST_F(TrainerTest, RefusesToResumeOnOtherData) {
  ASSERT_TRUE(create(tiny_options(Preset::kLinear)).run(make_run(1, "", path("c.nwck"))).ok());
  const Result<Trainer> resumed = Trainer::resume(path("c.nwck"), correlated_chunks(1024, 0.4));
  ASSERT_FALSE(resumed.ok());
  EXPECT_EQ(resumed.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(resumed.status().message(), HasSubstr("data"));
}

// At correlation 0.9 the best transform of 16 samples gains far over a bit; plain scalar quantization gains nothing.
TEST_F(TrainerTest, LearnsATransformWhereThereIsOne) {
  for (const Preset preset : {Preset::kLinear, Preset::kSmall}) {
    TrainOptions options = tiny_options(preset);
    options.steps = 400;
    options.batch = 128;
    options.learning_rate = 1e-2;
    options.final_rate = 1e-3;
    options.eval_every = 0;
    Result<Trainer> trainer = Trainer::create(options, correlated_chunks(4096, 0.9));
    ASSERT_TRUE(trainer.ok());
    const CodecModel before = trainer->freeze(2);
    double first_loss = 0, last_loss = 0;
    const Status status = trainer->run(make_run(2, path("codec")), [&](const TrainProgress& p) {
      if (first_loss == 0) first_loss = p.loss;
      last_loss = p.loss;
      return true;
    });
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_LT(last_loss, first_loss);
    const Result<CodecModel> after = load_codec(path("codec"));
    ASSERT_TRUE(after.ok()) << after.status().message();
    const std::span<const float> chunks = trainer->data().validation();
    for (const uint32_t level : {1u, 3u}) {
      const RateDistortion old_figures = measure_codec(before, chunks, level),
                           figures = measure_codec(*after, chunks, level);
      EXPECT_NEAR(old_figures.gap(), 0.26, 0.05) << "an untrained codec is scalar quantization";
      EXPECT_LT(figures.gap(), old_figures.gap() - 0.3) << "level " << level;
    }
  }
}

TEST_F(TrainerTest, FineTunesAnExistingCodec) {
  TrainOptions options = tiny_options(Preset::kSmall);
  ASSERT_TRUE(create(options).run(make_run(1, path("first"))).ok());
  TrainOptions tuning = tiny_options(Preset::kLinear);
  tuning.init_codec = path("first");
  tuning.steps = 10;
  Trainer trainer = create(tuning);
  EXPECT_EQ(trainer.options().width, 16u) << "the codec decides the network";
  const Result<CodecModel> first = load_codec(path("first"));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(make_codec(take_parameters(*first)).record.synthesis.skip_weight, first->record.synthesis.skip_weight);
  EXPECT_EQ(make_codec(take_parameters(*first)).analysis.output_weight, first->analysis.output_weight);
  ASSERT_TRUE(trainer.run(make_run(1, path("second"))).ok());
  const Result<CodecModel> second = load_codec(path("second"));
  ASSERT_TRUE(second.ok()) << second.status().message();
  EXPECT_EQ(second->lambda, first->lambda);
  EXPECT_NE(second->record.codec_id, first->record.codec_id);
}

TEST_F(TrainerTest, PaperLevels) {
  TrainOptions options = tiny_options(Preset::kPaper);
  options.layer_norm = true;
  options.activation = Activation::kSilu;
  options.blocks = 1;
  Trainer trainer = create(options);
  ASSERT_TRUE(trainer.run(make_run(2, path("codec"))).ok());
  const Result<CodecModel> codec = load_codec(path("codec"));
  ASSERT_TRUE(codec.ok()) << codec.status().message();
  const float expected[] = {29.0f, 83.0f, 1000.0f, 2000.0f};
  ASSERT_EQ(codec->lambda.size(), 4u);
  for (size_t l = 0; l < 4; ++l) EXPECT_NEAR(codec->lambda[l], expected[l], 1e-3 * static_cast<double>(expected[l]));
  EXPECT_TRUE(codec->record.synthesis.layer_norm);
}

TEST_F(TrainerTest, RefusesImpossibleOptions) {
  const auto message = [](auto change) {
    TrainOptions options = tiny_options(Preset::kSmall);
    change(&options);
    return Trainer::create(options, correlated_chunks(256, 0.5)).status().message();
  };
  EXPECT_THAT(message([](TrainOptions* o) { o->width = 24; }), HasSubstr("width"));
  EXPECT_THAT(message([](TrainOptions* o) { o->blocks = 0; }), HasSubstr("blocks"));
  EXPECT_THAT(message([](TrainOptions* o) { o->num_levels = 65; }), HasSubstr("levels"));
  EXPECT_THAT(message([](TrainOptions* o) { o->learning_rate = NAN; }), HasSubstr("lr"));
  EXPECT_THAT(message([](TrainOptions* o) { o->batch = 4096; }), HasSubstr("batch"));
  EXPECT_THAT(message([](TrainOptions* o) { o->init_codec = "/nowhere/codec.nwcc"; }),
              HasSubstr("/nowhere/codec.nwcc"));
  EXPECT_EQ(message([](TrainOptions*) {}), "");
}

TEST(ChunkDatasetTest, SamplesNormalizedChunksOfAModel) {
  DatasetOptions options;
  options.sources = {NWC_SOURCE_DIR "/models/gutenlm-2.6m"};
  options.max_chunks = 3000;
  options.validation_chunks = 500;
  const Result<ChunkDataset> data = ChunkDataset::load(options), again = ChunkDataset::load(options);
  ASSERT_TRUE(data.ok()) << data.status().message();
  EXPECT_EQ(data->training_size(), 3000u);
  EXPECT_EQ(data->validation_size(), 428u) << "an eighth at most";
  EXPECT_EQ(data->digest(), again->digest());
  double squares = 0;
  for (const float v : data->training_chunks(3000)) squares += static_cast<double>(v) * v;
  EXPECT_NEAR(squares / (3000 * kChunk), 1, 0.05);

  options.include_embedding = true;
  const Result<ChunkDataset> more = ChunkDataset::load(options);
  ASSERT_TRUE(more.ok());
  EXPECT_GT(more->available(), data->available());
  options.sources = {"/nowhere/model"};
  EXPECT_FALSE(ChunkDataset::load(options).ok());
}

}  // namespace
}  // namespace nwc
