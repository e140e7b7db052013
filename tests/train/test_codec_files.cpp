// Codec and checkpoint files: round trip, validity of what freezing makes, and hostile input.
#include <gmock/gmock.h>

#include <numeric>

#include "train_fixture.h"
#include "trainer/codec/analysis_record.h"
#include "trainer/codec/container_write.h"
#include "trainer/train/checkpoint.h"

namespace nwc {
namespace {

using testing::HasSubstr;

class CodecFileTest : public TrainTest {
 protected:
  /// Trains for a moment; leaves "codec" and "checkpoint".
  void make_files(Preset preset) {
    TrainOptions options = tiny_options(preset);
    options.steps = 10;
    options.learning_rate = 1e-4;
    Result<Trainer> trainer = Trainer::create(options, correlated_chunks(6000, 0.5));
    ASSERT_TRUE(trainer.ok());
    RunOptions run;
    run.threads = 1;
    run.output = path("codec");
    run.checkpoint = path("checkpoint");
    ASSERT_TRUE(trainer->run(run).ok());
  }
  void write(const std::string& name, const std::vector<uint8_t>& bytes) {
    std::ofstream out(path(name), std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  /// The file `name` with one section replaced, all checksums right.
  void replace_section(const std::string& name, FileKind kind, SectionType type, std::vector<uint8_t> bytes) {
    const auto reader = open_file_reader(path(name));
    ASSERT_TRUE(reader.ok());
    const auto container = Container::open(**reader);
    ASSERT_TRUE(container.ok());
    std::vector<Section> sections;
    for (const SectionEntry& entry : container->sections()) {
      sections.push_back({.type = entry.type, .bytes = container->load(entry.type).value()});
      if (entry.type == type) sections.back().bytes = bytes;
    }
    ASSERT_TRUE(write_container(path("changed"), kind, sections).ok());
  }
  std::vector<uint8_t> section(const std::string& name, SectionType type) {
    const auto reader = open_file_reader(path(name));
    const auto container = Container::open(*reader.value());
    return container->load(type).value();
  }
};

TEST_F(CodecFileTest, RoundTrip) {
  for (const Preset preset : {Preset::kLinear, Preset::kSmall}) {
    make_files(preset);
    const Result<CodecModel> codec = load_codec(path("codec"));
    ASSERT_TRUE(codec.ok()) << codec.status().message();
    EXPECT_EQ(codec->name, "codec");
    EXPECT_EQ(codec->provenance.at("preset"), preset == Preset::kLinear ? "linear" : "small");
    ASSERT_TRUE(save_codec(*codec, path("again")).ok());
    EXPECT_EQ(file_bytes(path("codec")), file_bytes(path("again")));
  }
}

TEST_F(CodecFileTest, FrozenCodecIsValid) {
  for (const Preset preset : {Preset::kLinear, Preset::kSmall}) {
    make_files(preset);
    const Result<CodecModel> codec = load_codec(path("codec"));
    ASSERT_TRUE(codec.ok());
    const CodecRecord& record = codec->record;
    EXPECT_TRUE(validate(record).ok());
    EXPECT_EQ(record.codec_id, compute_codec_id(record));
    EXPECT_EQ(record.f16_weights, preset == Preset::kSmall);
    EXPECT_EQ(record.context_map.size(), record.num_levels * kChunk);
    for (const FrequencyTable& table : record.tables) {
      EXPECT_EQ(std::accumulate(table.freq.begin(), table.freq.end(), 0), static_cast<int>(kProbScale));
    }
    // A finer level costs more and errs less; its nominal rate is what it really takes.
    const ChunkDataset data = correlated_chunks(4096, 0.5, 77);
    RateDistortion last{.bpw = 0, .mse = 1e9};
    for (uint32_t level = 0; level < record.num_levels; ++level) {
      const RateDistortion now = measure_codec(*codec, data.validation(), level);
      EXPECT_GT(now.bpw, last.bpw);
      EXPECT_LT(now.mse, last.mse);
      EXPECT_NEAR(now.bpw, record.rate[level], 0.1);
      EXPECT_NEAR(now.gap(), 0.254, 0.08) << level;
      last = now;
    }
  }
}

TEST_F(CodecFileTest, AnalyzeMatchesTheDoublePrecisionNetwork) {
  make_files(Preset::kSmall);
  const Result<CodecModel> codec = load_codec(path("codec"));
  ASSERT_TRUE(codec.ok());
  const ChunkDataset data = correlated_chunks(700, 0.3);
  const std::span<const float> x = data.training_chunks(data.training_size());
  std::vector<uint8_t> level(data.training_size());
  for (size_t n = 0; n < level.size(); ++n) level[n] = static_cast<uint8_t>(n % codec->record.num_levels);
  std::vector<float> u(x.size());
  analyze_chunks(*codec, x, level.data(), u);

  const std::vector<float> flat = flatten(codec->analysis);
  const std::vector<double> params(flat.begin(), flat.end());
  Mlp<double> mlp(take_parameters(*codec).shape);
  const RowMatrix<double> in = ConstMatrixMap<float>(x.data(), eigen_index(level.size()), kChunk).cast<double>();
  const RowMatrix<double>& y = mlp.forward(params.data(), in, level.data());
  for (size_t i = 0; i < u.size(); ++i) {
    const double step = codec->record.step[level[i / kChunk]];
    EXPECT_NEAR(u[i] * step, y.data()[i], 1e-5) << i;
  }
}

TEST_F(CodecFileTest, WrongKindsAndMissingFiles) {
  make_files(Preset::kLinear);
  EXPECT_EQ(load_codec(path("checkpoint")).status().code(), StatusCode::kUnrecognized);
  EXPECT_EQ(load_checkpoint(path("codec")).status().code(), StatusCode::kUnrecognized);
  EXPECT_EQ(load_codec(path("nothing")).status().code(), StatusCode::kIo);
  EXPECT_THAT(load_codec(path("nothing")).status().message(), HasSubstr(path("nothing")));
}

TEST_F(CodecFileTest, EveryTruncationAndEveryChangedByteIsRefused) {
  make_files(Preset::kLinear);
  for (const std::string name : {"codec", "checkpoint"}) {
    const auto loads = [&](const std::string& file) {
      return name == "codec" ? load_codec(path(file)).ok() : load_checkpoint(path(file)).ok();
    };
    ASSERT_TRUE(loads(name));
    const std::vector<uint8_t> good = file_bytes(path(name));
    const size_t stride = std::max<size_t>(1, good.size() / 400);
    for (size_t size = 0; size < good.size(); size += stride) {
      write("bad", {good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)});
      EXPECT_FALSE(loads("bad")) << name << " cut to " << size;
    }
    for (size_t at = 0; at < good.size(); at += at < 300 ? 1 : stride) {
      std::vector<uint8_t> bad = good;
      bad[at] ^= 0x41;
      write("bad", bad);
      EXPECT_FALSE(loads("bad")) << name << " byte " << at;
    }
  }
}

// With right checksums, so that the parsers themselves are what refuses: none may crash or accept nonsense.
TEST_F(CodecFileTest, HostileSectionsAreParsedSafely) {
  make_files(Preset::kSmall);
  const struct {
    const char* name;
    FileKind kind;
    SectionType type;
  } targets[] = {{"codec", FileKind::kCodec, SectionType::kAnalysis},
                 {"checkpoint", FileKind::kCheckpoint, SectionType::kAnalysis},
                 {"checkpoint", FileKind::kCheckpoint, SectionType::kTraining}};
  for (const auto& target : targets) {
    const std::vector<uint8_t> good = section(target.name, target.type);
    const auto load = [&] {
      return target.kind == FileKind::kCodec ? load_codec(path("changed")).status()
                                             : load_checkpoint(path("changed")).status();
    };
    for (size_t size = 0; size < good.size(); size += 1 + good.size() / 150) {
      replace_section(target.name, target.kind, target.type,
                      {good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)});
      EXPECT_FALSE(load().ok()) << "cut to " << size;
    }
    std::vector<uint8_t> longer = good;
    longer.push_back(0);
    replace_section(target.name, target.kind, target.type, longer);
    EXPECT_FALSE(load().ok());
    for (size_t at = 0; at < good.size(); at += at < 400 ? 1 : 1 + good.size() / 150) {
      std::vector<uint8_t> bad = good;
      bad[at] = 0xff;
      replace_section(target.name, target.kind, target.type, bad);
      if (const Status status = load(); !status.ok()) {
        EXPECT_FALSE(status.message().empty());
      }
    }
  }
}

TEST_F(CodecFileTest, NumbersThatAreNotFiniteAreRefused) {
  make_files(Preset::kLinear);
  std::vector<uint8_t> analysis = section("codec", SectionType::kAnalysis);
  store_le(analysis.data() + analysis.size() - 4, NAN);
  replace_section("codec", FileKind::kCodec, SectionType::kAnalysis, analysis);
  EXPECT_THAT(load_codec(path("changed")).status().message(), HasSubstr("level_scale"));

  std::vector<uint8_t> training = section("checkpoint", SectionType::kTraining);
  store_le(training.data() + training.size() - 4, -1.0f);
  replace_section("checkpoint", FileKind::kCheckpoint, SectionType::kTraining, training);
  EXPECT_THAT(load_checkpoint(path("changed")).status().message(), HasSubstr("negative"));
}

TEST_F(CodecFileTest, CodecIdCoversTheCodec) {
  make_files(Preset::kLinear);
  std::vector<uint8_t> record = section("codec", SectionType::kCodec);
  store_le(record.data() + 32, load_le<float>(record.data() + 32) * 1.5f);  // step[0]
  replace_section("codec", FileKind::kCodec, SectionType::kCodec, record);
  EXPECT_THAT(load_codec(path("changed")).status().message(), HasSubstr("codec id"));
}

}  // namespace
}  // namespace nwc
