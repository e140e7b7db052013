#include <gtest/gtest.h>

#include <fstream>

#include "tests/encode/synthetic_codec.h"
#include "tests/encode/test_source.h"
#include "trainer/encode/encoder.h"
#include "trainer/encode/raw_image.h"
#include "trainer/inspect/decompress.h"
#include "trainer/inspect/info.h"
#include "trainer/inspect/verify.h"

namespace nwc {
namespace {

using testing::MemorySource;
using testing::TemporaryFolder;

MemorySource small_model() {
  MemorySource source;
  source.add_gaussian("a", 200, 130, 1);
  source.add_gaussian("b.norm", 1, 100, 2);
  source.add("c.ids", Dtype::kI64, {3}, std::vector<uint8_t>(24, 9));
  source.add_gaussian("d", 64, 64, 3);
  return source;
}

struct Opened {
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<Runner> runner = make_thread_pool(1);
  std::unique_ptr<Decoder> decoder;
};

Result<Opened> open(std::unique_ptr<Reader> reader) {
  Opened out;
  NWC_ASSIGN_OR_RETURN(out.file, NwcFile::open(std::move(reader)));
  NWC_ASSIGN_OR_RETURN(out.decoder, create_cpu_decoder(*out.file, *out.runner, CpuLevel::kScalar));
  return out;
}

std::vector<uint8_t> compressed(const ModelSource& source, const TemporaryFolder& folder, CompressReport* report) {
  Result<CompressReport> result = compress_model(source, testing::synthetic_codec(), {}, folder.file("m.nwc"), {}, {});
  EXPECT_TRUE(result.ok()) << result.status().message();
  if (result.ok()) *report = std::move(*result);
  std::ifstream in(folder.file("m.nwc"), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Verify, EveryDamagedByteOfTheDataIsNoticed) {
  const TemporaryFolder folder;
  CompressReport report;
  const std::vector<uint8_t> bytes = compressed(small_model(), folder, &report);
  {
    const Result<Opened> good = open(make_owned_reader(bytes));
    ASSERT_TRUE(good.ok()) << good.status().message();
    const Result<VerifyReport> verified = verify_model(*good->file, *good->decoder, nullptr, {});
    ASSERT_TRUE(verified.ok()) << verified.status().message();
    EXPECT_EQ(verified->coded_tensors, 2u);
    EXPECT_EQ(verified->weights, report.total_weights);
    EXPECT_EQ(verified->bytes, bytes.size());
  }
  for (size_t at = 0; at < bytes.size(); at += 1 + at / 40) {
    std::vector<uint8_t> bad = bytes;
    bad[at] ^= 0x10;
    const Result<Opened> opened = open(make_owned_reader(bad));
    if (!opened.ok()) continue;
    EXPECT_FALSE(verify_model(*opened->file, *opened->decoder, nullptr, {}).ok()) << "byte " << at;
  }
}

TEST(Verify, ComparesDecoders) {
  // Answers wrongly where told to.
  class Wrong : public Decoder {
   public:
    explicit Wrong(Decoder& right) : right_(right) {}
    const std::string& name() const override { return right_.name(); }
    Status decode(const DecodeRequest& request) override {
      NWC_TRY(right_.decode(request));
      const float v = load_le<float>(request.out.data());
      store_le(request.out.data(), v + weight_error);
      return {};
    }
    Status decode_values(size_t tensor, std::span<int16_t> out) override {
      NWC_TRY(right_.decode_values(tensor, out));
      out[5] = static_cast<int16_t>(out[5] + value_error);
      return {};
    }
    float weight_error = 0;
    int value_error = 0;

   private:
    Decoder& right_;
  };
  const TemporaryFolder folder;
  CompressReport report;
  const Result<Opened> opened = open(make_owned_reader(compressed(small_model(), folder, &report)));
  ASSERT_TRUE(opened.ok());
  Wrong other(*opened->decoder);
  const auto agree = [&] {
    const Result<VerifyReport> r = verify_model(*opened->file, *opened->decoder, &other, {});
    EXPECT_TRUE(r.ok()) << r.status().message();
    return r.ok() && r->comparisons.size() == 2 && r->decoders_agree();
  };
  EXPECT_TRUE(agree());
  other.weight_error = 1e-8f;
  EXPECT_TRUE(agree());
  other.weight_error = 1e-4f;
  EXPECT_FALSE(agree());
  other.weight_error = 0;
  other.value_error = 1;
  EXPECT_FALSE(agree());
}

TEST(Info, AgreesWithTheEncodersReport) {
  const TemporaryFolder folder;
  CompressReport report;
  const Result<Opened> opened = open(make_owned_reader(compressed(small_model(), folder, &report)));
  ASSERT_TRUE(opened.ok());
  const Result<ModelInfo> info = inspect_model(*opened->file, opened->decoder.get());
  ASSERT_TRUE(info.ok()) << info.status().message();
  EXPECT_EQ(info->file_bytes, report.file_bytes);
  EXPECT_EQ(info->codec_bytes, report.codec_bytes);
  EXPECT_EQ(info->metadata_bytes, report.metadata_bytes);
  EXPECT_DOUBLE_EQ(info->bpw_coded, report.bpw_coded);
  EXPECT_DOUBLE_EQ(info->bpw_file, report.bpw_file);
  uint64_t sum = info->codec_bytes + info->metadata_bytes;
  for (size_t i = 0; i < info->tensors.size(); ++i) {
    const TensorInfo& a = info->tensors[i];
    const TensorReport& b = report.tensors[i];
    EXPECT_EQ(a.stored_bytes, b.stored_bytes);
    EXPECT_EQ(a.padding_bytes, b.padding_bytes);
    EXPECT_EQ(a.word_bytes, b.word_bytes);
    EXPECT_EQ(a.state_bytes, b.state_bytes);
    if (a.storage == Storage::kCoded) {
      EXPECT_NEAR(a.ideal_bits, b.ideal_bits, 1e-3 * b.ideal_bits);
    }
    sum += a.stored_bytes + a.padding_bytes;
  }
  EXPECT_EQ(sum, info->file_bytes);
}

TEST(Decompress, RawTensorsAreExactAndCodedOnesClose) {
  const TemporaryFolder folder;
  const MemorySource source = small_model();
  CompressReport report;
  const Result<Opened> opened = open(make_owned_reader(compressed(source, folder, &report)));
  ASSERT_TRUE(opened.ok());
  for (const std::optional<Dtype> dtype : {std::optional<Dtype>(), {Dtype::kF16}, {Dtype::kBf16}}) {
    const Status status = decompress_model(*opened->file, *opened->decoder, dtype, folder.file("m.safetensors"), {});
    ASSERT_TRUE(status.ok()) << status.message();
    const Result<std::unique_ptr<ModelSource>> back = open_model_source(folder.file("m.safetensors"));
    ASSERT_TRUE(back.ok()) << back.status().message();
    for (size_t t = 0; t < source.tensors().size(); ++t) {
      const std::optional<size_t> at = (*back)->find(source.tensors()[t].name);
      ASSERT_TRUE(at.has_value());
      EXPECT_EQ((*back)->tensors()[*at].shape, source.tensors()[t].shape);
      if (source.tensors()[t].dtype == Dtype::kI64) {
        std::vector<uint8_t> a(24), b(24);
        ASSERT_TRUE(source.read_raw(t, a).ok());
        ASSERT_TRUE((*back)->read_raw(*at, b).ok());
        EXPECT_EQ(a, b);
        continue;
      }
      EXPECT_EQ((*back)->tensors()[*at].dtype, dtype.value_or(Dtype::kF32));
      const std::vector<float> a = *source.read_f32(t), b = *(*back)->read_f32(*at);
      double error = 0, power = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        error += (a[i] - b[i]) * (a[i] - b[i]);
        power += a[i] * a[i];
      }
      EXPECT_LT(error, 0.01 * power);
    }
  }
  EXPECT_EQ(decompress_model(*opened->file, *opened->decoder, Dtype::kI8, folder.file("x"), {}).code(),
            StatusCode::kInvalidArgument);
}

TEST(RawImage, LooksLikeAFileOfRawTensors) {
  auto source = std::make_shared<MemorySource>(small_model());
  source->add_gaussian("e.large", 1100, 1000, 8);
  const Result<std::unique_ptr<Reader>> image = make_raw_image(source, 2);
  ASSERT_TRUE(image.ok()) << image.status().message();
  std::vector<uint8_t> bytes((*image)->size());
  ASSERT_TRUE((*image)->read(0, bytes).ok());
  // Any range gives what the whole gives.
  for (size_t at = 0; at + 5000 < bytes.size(); at += 49999) {
    std::vector<uint8_t> part(5000);
    ASSERT_TRUE((*image)->read(at, part).ok());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), bytes.begin() + static_cast<ptrdiff_t>(at)));
  }
  std::vector<uint8_t> beyond(2);
  EXPECT_FALSE((*image)->read(bytes.size() - 1, beyond).ok());
  const Result<Opened> opened = open(make_owned_reader(bytes));
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  ASSERT_TRUE(verify_model(*opened->file, *opened->decoder, nullptr, {}).ok());
  for (size_t t = 0; t < source->tensors().size(); ++t) {
    const size_t at = *opened->file->find(source->tensors()[t].name);
    EXPECT_EQ(opened->file->tensors()[at].storage, Storage::kRaw);
    std::vector<uint8_t> storage, expected(opened->file->tensors()[at].raw_bytes());
    ASSERT_TRUE(source->read_raw(t, expected).ok());
    const Result<Bytes> raw = opened->file->load_raw(at, true, &storage);
    ASSERT_TRUE(raw.ok());
    EXPECT_TRUE(std::equal(raw->begin(), raw->end(), expected.begin(), expected.end()));
  }
}

}  // namespace
}  // namespace nwc
