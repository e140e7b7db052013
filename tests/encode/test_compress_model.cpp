#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>

#include "runtime/codec/tensor_decode.h"
#include "tests/encode/synthetic_codec.h"
#include "tests/encode/test_source.h"
#include "tests/parallel/local_ranks.h"
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
  for (const uint32_t trellis_bits : {0u, 2u, 3u, 8u}) {
    CompressOptions options;
    options.min_elements = 256;
    options.choices.quantizer.trellis_bits = trellis_bits;
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
      // The report is about f16.
      EXPECT_NEAR(error / power, report->tensors[t].relative_error, 1e-5 + 0.03 * error / power) << record.name;
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

/// The file that so many ranks make of a model; each rank has the same errors.
std::vector<uint8_t> compressed_by_ranks(const ModelSource& source, CompressOptions options, uint32_t size) {
  const TemporaryFolder folder;
  options.min_elements = 256;
  options.threads = 1;
  options.choices.quantizer.trellis_bits = 2;  // quick
  testing::run_as_ranks(size, [&](Ranks& ranks) {
    CompressOptions own = options;
    own.ranks = &ranks;
    const std::string path = ranks.first() ? folder.file("r.nwc") : std::string();
    EXPECT_EQ(compress(source, path, own).status().code(),
              options.file_bytes == 1 ? StatusCode::kInvalidArgument : StatusCode::kOk);
  });
  return read_file(folder.file("r.nwc"));
}

TEST(CompressModel, SameBytesAtAnyNumberOfRanks) {
  const MemorySource odd = odd_model();
  MemorySource nothing_to_code;
  nothing_to_code.add_f32("zero", {64, 64}, std::vector<float>(64 * 64, 0.0f));
  CompressOptions too_small;
  too_small.file_bytes = 1;
  const std::vector<uint8_t> alone = compressed_by_ranks(odd, {}, 1);
  EXPECT_TRUE(compressed_by_ranks(odd, {}, 2) == alone);
  EXPECT_TRUE(compressed_by_ranks(odd, {}, 7) == alone);  // one has nothing to code
  EXPECT_TRUE(compressed_by_ranks(odd, too_small, 2).empty());
  EXPECT_TRUE(compressed_by_ranks(nothing_to_code, {}, 2) == compressed_by_ranks(nothing_to_code, {}, 1));
}

TEST(CompressModel, IdealBitsAreThoseOfTheFile) {
  MemorySource source;
  source.add_gaussian("w", 300, 200, 9);
  for (const uint32_t trellis_bits : {0u, 4u}) {
    CompressOptions options;
    options.choices.quantizer.trellis_bits = trellis_bits;
    const TemporaryFolder folder;
    const Result<CompressReport> report = compress(source, folder.file("v.nwc"), options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    const std::unique_ptr<NwcFile> file = open(folder.file("v.nwc"));
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(file->codec()->trellis_bits, trellis_bits);
    std::vector<int16_t> values(ceil_div(300u, 16u) * 200u * 16u);
    const std::unique_ptr<Runner> runner = make_thread_pool(1);
    ASSERT_TRUE(decode_tensor_values(*file, build_decode_tables(*file->codec()), 0, values, *runner, {}).ok());
    const Result<CodedTensor> coded = file->load_coded(0, true);
    ASSERT_TRUE(coded.ok());
    EXPECT_NEAR(ideal_bits(*file->codec(), tile_grid(file->tensors()[0]), *coded, values),
                report->tensors[0].ideal_bits, 1e-3 * report->tensors[0].ideal_bits);
  }
}

/// A calibration made of nothing but given matrices.
class FixedCalibration : public Calibration {
 public:
  std::map<std::string, TensorStatistics> statistics;
  const std::string& hash() const override { return hash_; }
  uint64_t tokens() const override { return 1; }
  bool covers(const std::string& tensor) const override { return statistics.count(tensor) != 0; }
  Result<TensorStatistics> load(const std::string& tensor, HessianKind) const override { return statistics.at(tensor); }

 private:
  std::string hash_ = "0123456789abcdef";
};

/// Inputs that are correlated and of unlike power, outputs of unlike importance.
TensorStatistics make_statistics(uint64_t m, uint64_t n) {
  TensorStatistics out;
  out.m = m;
  out.n = n;
  out.hessian.resize(n * n);
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j < n; ++j) {
      const double power = std::exp2(-2.0 * static_cast<double>(i + j) / static_cast<double>(n));
      out.hessian[i * n + j] =
          static_cast<float>(1e-3 * power * std::pow(0.8, std::abs(static_cast<double>(i) - static_cast<double>(j))));
    }
  }
  double sum = 0;
  for (uint64_t r = 0; r < m; ++r) {
    out.row_importance.push_back(static_cast<float>(std::exp2(-4.0 * static_cast<double>(r) / static_cast<double>(m))));
    sum += out.row_importance.back();
  }
  for (float& g : out.row_importance) g *= static_cast<float>(static_cast<double>(m) / sum);
  return out;
}

double quadratic_error(const TensorStatistics& s, std::span<const float> w, std::span<const float> decoded) {
  double sum = 0;
  std::vector<double> e(s.n);
  for (uint64_t r = 0; r < s.m; ++r) {
    for (uint64_t c = 0; c < s.n; ++c) e[c] = double{w[r * s.n + c]} - decoded[r * s.n + c];
    for (uint64_t i = 0; i < s.n; ++i) {
      for (uint64_t j = 0; j < s.n; ++j) sum += 0.5 * s.row_importance[r] * e[i] * s.hessian[i * s.n + j] * e[j];
    }
  }
  return sum;
}

/// The first tensor [m][n] of a file.
std::vector<float> decode_first_tensor(const std::string& path, uint64_t m, uint64_t n) {
  const std::unique_ptr<NwcFile> file = open(path);
  std::vector<float> out(m * n);
  const std::unique_ptr<Runner> runner = make_thread_pool(1);
  EXPECT_TRUE(decode_tensor_rows(*file, build_decode_tables(*file->codec()), 0, 0, m, Dtype::kF32,
                                 {reinterpret_cast<uint8_t*>(out.data()), out.size() * 4}, *runner, {})
                  .ok());
  return out;
}

TEST(CompressModel, CalibrationLowersTheErrorThatCounts) {
  const uint64_t m = 320, n = 192;
  MemorySource source;
  const std::vector<float> w = MemorySource::gaussian(m, n, 3);
  source.add_f32("w", {m, n}, w);
  FixedCalibration calibration;
  calibration.statistics["w"] = make_statistics(m, n);
  const TemporaryFolder folder;
  const auto error_of = [&](CodingChoices choices, const Calibration* c, double* predicted) {
    CompressOptions options;
    options.bits = 3;
    options.choices = choices;
    options.calibration = c;
    const Result<CompressReport> report = compress(source, folder.file("c.nwc"), options);
    EXPECT_TRUE(report.ok()) << report.status().message();
    if (!report.ok()) return 0.0;
    EXPECT_NEAR(report->bpw_coded, 3, 0.02);
    if (predicted != nullptr) *predicted = report->predicted_kld;
    return quadratic_error(calibration.statistics["w"], w, decode_first_tensor(folder.file("c.nwc"), m, n));
  };
  CodingChoices choices;
  const double free = error_of(choices, nullptr, nullptr);
  choices.importance = Importance::kNone;
  choices.row_importance = false;
  const double feedback = error_of(choices, &calibration, nullptr);
  choices.importance = Importance::kWaterfill;
  const double waterfill = error_of(choices, &calibration, nullptr);
  choices.row_importance = true;
  double predicted = 0;
  const double rows = error_of(choices, &calibration, &predicted);
  EXPECT_LT(feedback, 0.8 * free);
  EXPECT_LT(waterfill, 0.8 * feedback);
  EXPECT_LT(rows, 0.8 * waterfill);
  EXPECT_NEAR(predicted, rows, 0.1 * rows);
}

/// The same rate, once with what llama.cpp has measured of the inputs and once without.
TEST(CompressModel, AnImportanceMatrixLowersTheErrorOfLargeInputs) {
  const uint64_t m = 256, n = 192;
  MemorySource source;
  const std::vector<float> w = MemorySource::gaussian(m, n, 3);
  source.add_f32("blk.0.ffn_up.weight", {m, n}, w);
  source.add_gaussian("blk.0.other.weight", m, n, 4);
  std::vector<float> powers(n, 1.0f);
  for (uint64_t c = 5; c < n; c += 24) powers[c] = 1000;
  ByteWriter dat;
  dat.write(int32_t{1});
  dat.write(int32_t{19});
  dat.write_string("blk.0.ffn_up.weight");
  dat.write(int32_t{1});
  dat.write(static_cast<int32_t>(n));
  dat.write_array<float>(powers);
  Result<Imatrix> imatrix = Imatrix::open(make_owned_reader(dat.take()));
  ASSERT_TRUE(imatrix.ok()) << imatrix.status().message();
  const Result<ColumnPowers> matched = ColumnPowers::match(std::move(*imatrix), source);
  ASSERT_TRUE(matched.ok()) << matched.status().message();
  const TemporaryFolder folder;
  const auto error_of = [&](const ColumnPowers* known) {
    CompressOptions options;
    options.bits = 3;
    options.powers = known;
    const Result<CompressReport> report = compress(source, folder.file("c.nwc"), options);
    EXPECT_TRUE(report.ok()) << report.status().message();
    EXPECT_NEAR(report.ok() ? report->bpw_coded : 0, 3, 0.02);
    const std::vector<float> decoded = decode_first_tensor(folder.file("c.nwc"), m, n);
    double sum = 0;
    for (uint64_t i = 0; i < m * n; ++i) {
      const double e = double{w[i]} - double{decoded[i]};
      sum += static_cast<double>(powers[i % n]) * e * e;
    }
    return sum;
  };
  const double free = error_of(nullptr);
  EXPECT_EQ(open(folder.file("c.nwc"))->provenance().at("calibration"), "none");
  // Reverse water-filling leaves the geometric mean of the powers over their mean: 1.33 of 42.6.
  EXPECT_LT(error_of(&*matched), 0.1 * free);
  EXPECT_EQ(open(folder.file("c.nwc"))->provenance().at("calibration"), matched->imatrix().hash());
}

TEST(CompressModel, StatisticsThatCannotBeFactoredAreNamedAndDoNotEndTheRun) {
  const uint64_t m = 96, n = 48;
  MemorySource source;
  for (const char* name : {"good", "bad"}) source.add_f32(name, {m, n}, MemorySource::gaussian(m, n, 3));
  FixedCalibration calibration;
  calibration.statistics["good"] = calibration.statistics["bad"] = make_statistics(m, n);
  calibration.statistics["bad"].hessian[5 * n + 5] = -1e-3f;
  std::string warnings;
  const Logger log{[](void* user, LogLevel level, const char* message) {
                     if (level == LogLevel::kWarning) *static_cast<std::string*>(user) += message;
                   },
                   &warnings};
  const TemporaryFolder folder;
  CompressOptions options;
  options.calibration = &calibration;
  const Result<CompressReport> report =
      compress_model(source, testing::synthetic_codec(), options, folder.file("c.nwc"), {}, log);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_NE(warnings.find("tensor bad: its statistics could only be factored with a damping of "), std::string::npos)
      << warnings;
  EXPECT_EQ(warnings.find("tensor good"), std::string::npos) << warnings;
}

// What damping adds to H costs no nats.
TEST(CompressModel, DampingIsNoPartOfThePrediction) {
  const uint64_t m = 96, n = 48;
  MemorySource source;
  const std::vector<float> w = MemorySource::gaussian(m, n, 3);
  source.add_f32("w", {m, n}, w);
  FixedCalibration calibration;
  calibration.statistics["w"] = make_statistics(m, n);
  const TemporaryFolder folder;
  CompressOptions options;
  options.calibration = &calibration;
  options.choices.damping = 1;
  const Result<CompressReport> report = compress(source, folder.file("c.nwc"), options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  const double cost = quadratic_error(calibration.statistics["w"], w, decode_first_tensor(folder.file("c.nwc"), m, n));
  EXPECT_NEAR(report->predicted_kld, cost, 1e-3 * cost);
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
    EXPECT_EQ(file->codec()->codec_id, testing::synthetic_codec().record.codec_id);
  }
}

/// The last warning of a log.
struct Warning {
  std::string text;
  Logger logger() {
    return {[](void* user, LogLevel level, const char* message) {
              if (level == LogLevel::kWarning) static_cast<Warning*>(user)->text = message;
            },
            this};
  }
};

/// Weights that need fewer bits than they may have.
MemorySource easy_model(const std::string& kind) {
  std::vector<float> w = MemorySource::gaussian(256, 192, 7);
  for (size_t i = 0; i < w.size(); ++i) {
    const float sign = w[i] < 0 ? -1.0f : 1.0f;
    if (kind == "sparse" && (i * 2654435761u >> 7) % 10 != 0) w[i] = 0;
    if (kind == "binary") w[i] = sign;
    if (kind == "ternary") w[i] = std::abs(w[i]) < 0.02f ? 0 : 0.7f * sign;
    if (kind == "constant") w[i] = 0.5f;
    if (kind == "column") w[i] = i % 192 == 17 ? w[i] : 0;
  }
  MemorySource source;
  source.add_f32("w", {256, 192}, w);
  return source;
}

TEST(CompressModel, WeightsThatNeedFewerBitsMakeASmallerFile) {
  const TemporaryFolder folder;
  for (const char* kind : {"sparse", "binary", "ternary", "constant", "column"}) {
    for (const uint32_t trellis_bits : {0u, 3u}) {
      for (const double bits : {4.0, 16.0}) {
        Warning warning;
        CompressOptions options;
        options.bits = bits;
        options.choices.quantizer.trellis_bits = trellis_bits;
        const MemorySource source = easy_model(kind);
        const Result<CompressReport> report =
            compress_model(source, testing::synthetic_codec(), options, folder.file("e.nwc"), {}, warning.logger());
        ASSERT_TRUE(report.ok()) << kind << ": " << report.status().message();
        expect_exact_sizes(*report, folder.file("e.nwc"));
        EXPECT_LT(report->bpw_coded, bits + 0.05) << kind;
        EXPECT_LT(report->relative_error, bits > 8 ? 1e-6 : 0.01) << kind;
        EXPECT_EQ(warning.text.find("smaller than asked for") != std::string::npos, report->bpw_coded < bits - 0.02)
            << kind << ": " << report->bpw_coded << " " << warning.text;
        // The same as a size.
        options.file_bytes = 10'000'000;
        const Result<CompressReport> sized =
            compress_model(source, testing::synthetic_codec(), options, folder.file("s.nwc"), {}, warning.logger());
        ASSERT_TRUE(sized.ok()) << kind << ": " << sized.status().message();
        EXPECT_LT(sized->relative_error, 1e-6) << kind;
        EXPECT_NE(warning.text.find("smaller than asked for"), std::string::npos) << warning.text;
      }
    }
  }
}

TEST(CompressModel, TheSmallestSizeIsSaidAndReached) {
  const TemporaryFolder folder;
  MemorySource coded, raw;
  coded.add_gaussian("w", 256, 192, 5);
  raw.add_gaussian("tiny", 4, 4, 1);
  for (const MemorySource* source : {&coded, &raw}) {
    CompressOptions options;
    options.file_bytes = 100;
    const Result<CompressReport> refused = compress(*source, folder.file("m.nwc"), options);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(folder.num_files(), 0u);
    const std::string& text = refused.status().message();
    const size_t at = text.find("has ");
    ASSERT_NE(at, std::string::npos) << text;
    options.file_bytes = std::stoull(text.substr(at + 4));
    const Result<CompressReport> report = compress(*source, folder.file("m.nwc"), options);
    ASSERT_TRUE(report.ok()) << report.status().message() << " after " << text;
    EXPECT_LE(report->file_bytes, options.file_bytes);
    std::filesystem::remove(folder.file("m.nwc"));
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
  options.bits = 33;
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
