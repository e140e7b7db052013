#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "runtime/codec/tensor_decode.h"
#include "tests/encode/synthetic_codec.h"
#include "tests/encode/test_source.h"
#include "trainer/encode/encoder.h"

namespace nwc {
namespace {

using testing::MemorySource;
using testing::TemporaryFolder;

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::unique_ptr<NwcFile> open(const std::string& path) {
  Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  Result<std::unique_ptr<NwcFile>> file = NwcFile::open(std::move(*reader));
  EXPECT_TRUE(file.ok()) << file.status().message();
  return file.ok() ? std::move(*file) : nullptr;
}

Result<CompressReport> compress(const ModelSource& source, const std::string& path, CompressOptions options = {}) {
  return compress_model(source, testing::synthetic_codec(), options, path, {}, {});
}

void expect_exact_sizes(const CompressReport& report, const std::string& path) {
  uint64_t sum = report.metadata_bytes + report.codec_bytes;
  for (const TensorReport& t : report.tensors) {
    sum += t.stored_bytes + t.padding_bytes;
    if (t.storage == Storage::kCoded) {
      EXPECT_EQ(t.stored_bytes, t.side_bytes + t.directory_bytes + t.state_bytes + t.word_bytes) << t.name;
    }
  }
  EXPECT_EQ(sum, report.file_bytes);
  EXPECT_EQ(std::filesystem::file_size(path), report.file_bytes);
}

MemorySource odd_model() {
  MemorySource source;
  source.add_gaussian("a.weight", 17, 33, 1);
  source.add_gaussian("b.row", 1, 300, 2);
  source.add_gaussian("c.column", 300, 1, 3);
  source.add_f32("d.zero", {64, 64}, std::vector<float>(64 * 64, 0.0f));
  source.add_f32("e.constant", {40, 50}, std::vector<float>(40 * 50, -0.25f));
  std::vector<float> holes = MemorySource::gaussian(100, 70, 4);
  for (size_t i = 0; i < holes.size(); ++i) {
    if (i % 70 == 5 || i / 70 < 20) holes[i] = 0;
  }
  source.add_f32("f.holes", {100, 70}, holes);
  std::vector<float> spikes(1000 * 20, 0.0f);
  for (size_t j = 0; j < 20; ++j) spikes[j * 37 * 20 + j] = 3.0f;
  source.add_f32("g.spikes", {1000, 20}, spikes);
  source.add_f32("h.conv", {32, 4, 3, 3}, MemorySource::gaussian(32, 36, 5));
  source.add("i.integers", Dtype::kI32, {5}, std::vector<uint8_t>(20, 3));
  source.add("j.double", Dtype::kF64, {32, 32}, std::vector<uint8_t>(32 * 32 * 8, 0));
  source.add_gaussian("k.large", 700, 600, 6);
  source.add("l.empty", Dtype::kF32, {0, 7}, {});
  return source;
}

TEST(CompressModel, OddShapesDecodeToTheReportedError) {
  const MemorySource source = odd_model();
  const TemporaryFolder folder;
  for (const bool row_scales : {false, true}) {
    CompressOptions options;
    options.min_elements = 256;
    options.row_scales = row_scales;
    options.bits = 5;
    const Result<CompressReport> report = compress(source, folder.file("odd.nwc"), options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    expect_exact_sizes(*report, folder.file("odd.nwc"));
    EXPECT_NEAR(report->bpw_coded, 5, 0.02);
    const std::unique_ptr<NwcFile> file = open(folder.file("odd.nwc"));
    ASSERT_NE(file, nullptr);
    const DecodeTables tables = build_decode_tables(*file->codec());
    const std::unique_ptr<Runner> runner = make_thread_pool(1);
    size_t coded = 0;
    for (size_t t = 0; t < file->tensors().size(); ++t) {
      const TensorRecord& record = file->tensors()[t];
      const size_t s = *source.find(record.name);
      std::vector<uint8_t> original(record.raw_bytes());
      ASSERT_TRUE(source.read_raw(s, original).ok());
      if (record.storage != Storage::kCoded) {
        std::vector<uint8_t> storage;
        const Result<Bytes> raw = file->load_raw(t, true, &storage);
        ASSERT_TRUE(raw.ok()) << raw.status().message();
        EXPECT_TRUE(std::equal(raw->begin(), raw->end(), original.begin(), original.end())) << record.name;
        continue;
      }
      ++coded;
      std::vector<float> out(record.num_elements());
      const Status status = decode_tensor_rows(*file, tables, t, 0, record.rows(), Dtype::kF32,
                                               {reinterpret_cast<uint8_t*>(out.data()), out.size() * 4}, *runner, {});
      ASSERT_TRUE(status.ok()) << status.message();
      double error = 0, power = 0;
      for (size_t i = 0; i < out.size(); ++i) {
        const double w = load_le<float>(original.data() + 4 * i);
        error += (out[i] - w) * (out[i] - w);
        power += w * w;
      }
      EXPECT_NEAR(error / power, report->tensors[t].relative_error, 1e-5) << record.name;
      EXPECT_LT(error / power, 0.01) << record.name;
    }
    EXPECT_EQ(coded, 6u);  // a, e, f, g, h, k
  }
}

TEST(CompressModel, SameBytesAtAnyThreadCount) {
  const MemorySource source = odd_model();
  const TemporaryFolder folder;
  std::vector<std::vector<uint8_t>> files;
  for (const uint32_t threads : {1u, 2u, 5u}) {
    CompressOptions options;
    options.min_elements = 256;
    options.threads = threads;
    ASSERT_TRUE(compress(source, folder.file("t.nwc"), options).ok());
    files.push_back(read_file(folder.file("t.nwc")));
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST(CompressModel, ValuesAreThoseOfTheQuantizer) {
  MemorySource source;
  source.add_gaussian("w", 300, 200, 9);
  // Remembers what it handed over.
  class Recorder : public TensorQuantizer {
   public:
    Result<QuantizedTensor> quantize(Job job) override {
      NWC_ASSIGN_OR_RETURN(QuantizedTensor q, TensorQuantizer::quantize(std::move(job)));
      last = q;
      return q;
    }
    QuantizedTensor last;
  } recorder;
  CompressOptions options;
  options.quantizer = &recorder;
  const TemporaryFolder folder;
  const Result<CompressReport> report = compress(source, folder.file("v.nwc"), options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  const std::unique_ptr<NwcFile> file = open(folder.file("v.nwc"));
  ASSERT_NE(file, nullptr);
  std::vector<int16_t> values(recorder.last.values.size());
  const std::unique_ptr<Runner> runner = make_thread_pool(1);
  ASSERT_TRUE(decode_tensor_values(*file, build_decode_tables(*file->codec()), 0, values, *runner, {}).ok());
  EXPECT_EQ(values, recorder.last.values);
  const Result<CodedTensor> coded = file->load_coded(0, true);
  ASSERT_TRUE(coded.ok());
  EXPECT_EQ(coded->level, recorder.last.level);
  EXPECT_EQ(coded->scale, recorder.last.scales.column.value);
  EXPECT_NEAR(ideal_bits(*file->codec(), tile_grid(file->tensors()[0]), *coded, values), report->tensors[0].ideal_bits,
              1e-3 * report->tensors[0].ideal_bits);
}

TEST(CompressModel, ReachesTheRateOnARealModel) {
  const Result<std::unique_ptr<ModelSource>> source =
      open_model_source(std::string(NWC_SOURCE_DIR) + "/models/gutenlm-2.6m");
  ASSERT_TRUE(source.ok()) << source.status().message();
  const TemporaryFolder folder;
  for (const double bits : {2.0, 3.3, 4.0, 6.0}) {
    CompressOptions options;
    options.bits = bits;
    const Result<CompressReport> report = compress(**source, folder.file("m.nwc"), options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_NEAR(report->bpw_coded, bits, 0.02);
    expect_exact_sizes(*report, folder.file("m.nwc"));
    EXPECT_LT(report->relative_error, 1.7 * std::exp2(-2 * bits));
    const std::unique_ptr<NwcFile> file = open(folder.file("m.nwc"));
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(file->tensors().front().name, "model.embed_tokens.weight");
    EXPECT_EQ(file->tensors().back().name, "model.norm.weight");
    EXPECT_LE(file->codec()->num_levels, 2u);
    EXPECT_EQ(file->codec()->codec_id, testing::synthetic_codec().record.codec_id);
  }
}

TEST(CompressModel, RefusesWhatIsNotFinite) {
  const TemporaryFolder folder;
  for (const uint64_t m : {1u, 64u}) {  // raw and coded
    MemorySource source;
    source.add_gaussian("good", 64, 64, 1);
    std::vector<float> w = MemorySource::gaussian(m, 64, 2);
    w[3] = std::numeric_limits<float>::quiet_NaN();
    source.add_f32("bad", {m, 64}, w);
    const Result<CompressReport> report = compress(source, folder.file("x.nwc"));
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), StatusCode::kCorrupt);
    EXPECT_NE(report.status().message().find("bad"), std::string::npos) << report.status().message();
    EXPECT_EQ(folder.num_files(), 0u);
  }
}

TEST(CompressModel, FailuresLeaveNothingBehind) {
  const TemporaryFolder folder;
  MemorySource source;
  source.add_gaussian("w", 64, 64, 1);
  CompressOptions options;
  options.bits = 0.2;
  const Result<CompressReport> low = compress(source, folder.file("x.nwc"), options);
  ASSERT_FALSE(low.ok());
  EXPECT_EQ(low.status().code(), StatusCode::kInvalidArgument);
  options.bits = 30;
  EXPECT_FALSE(compress(source, folder.file("x.nwc"), options).ok());
  options.bits = 4;
  // Progress that cancels while tensors are being written.
  int calls = 0;
  const Progress cancel{[](void* user, uint64_t, uint64_t) { return ++*static_cast<int*>(user) < 2; }, &calls};
  const Result<CompressReport> cancelled =
      compress_model(source, testing::synthetic_codec(), options, folder.file("x.nwc"), cancel, {});
  ASSERT_FALSE(cancelled.ok());
  EXPECT_EQ(cancelled.status().code(), StatusCode::kCancelled);
  EXPECT_FALSE(compress(source, folder.file("no/such/folder/x.nwc")).ok());
  EXPECT_EQ(folder.num_files(), 0u);
}

TEST(CompressModel, ModelsWithoutCodedTensorsNeedNoCodec) {
  MemorySource source;
  source.add_gaussian("tiny", 4, 4, 1);
  const TemporaryFolder folder;
  const Result<CompressReport> report = compress(source, folder.file("raw.nwc"));
  ASSERT_TRUE(report.ok()) << report.status().message();
  expect_exact_sizes(*report, folder.file("raw.nwc"));
  const std::unique_ptr<NwcFile> file = open(folder.file("raw.nwc"));
  ASSERT_NE(file, nullptr);
  EXPECT_FALSE(file->codec().has_value());
}

}  // namespace
}  // namespace nwc
