// Coded tensors decoded to integers hold the weights exactly.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/codec/integer_decode.h"
#include "tests/engine/coded_model.h"

namespace nwc::test {
namespace {

struct Coded {
  std::unique_ptr<NwcFile> file;
  DecodeTables tables;
  std::unique_ptr<TensorDecoder> decoder;
  std::unique_ptr<Runner> runner = make_thread_pool(2);
  std::vector<size_t> tensors;
};

std::unique_ptr<Coded> coded_file() {
  auto made = std::make_unique<Coded>();
  Coded& c = *made;
  c.file = std::move(NwcFile::open(make_owned_reader(compressed_bytes())).value());
  c.tables = build_decode_tables(*c.file->codec());
  c.decoder = std::make_unique<TensorDecoder>(*c.file, c.tables);
  for (size_t i = 0; i < c.file->tensors().size(); ++i) {
    if (c.file->tensors()[i].storage == Storage::kCoded) c.tensors.push_back(i);
  }
  return made;
}

/// Bytes from a multiple of 64 on, as decode_integers wants them.
class Aligned {
 public:
  explicit Aligned(uint64_t size) : memory_(size + 63) {}
  uint8_t* data() { return memory_.data() + (0 - reinterpret_cast<uintptr_t>(memory_.data())) % 64; }
  MutableBytes bytes() { return {data(), memory_.size() - 63}; }

 private:
  std::vector<uint8_t> memory_;
};

Aligned integers(Coded& c, size_t tensor, const IntegerForm& form) {
  Aligned data(form.bytes);
  TensorDecodeOptions options;
  options.cpu = detect_cpu_level();
  const IntegerRequest request{tensor, &form, 0, form.rows, data.bytes()};
  const Status status = decode_integers(*c.decoder, {&request, 1}, *c.runner, options);
  EXPECT_TRUE(status.ok()) << status.message();
  return data;
}

std::vector<float> decoded(Coded& c, size_t tensor) {
  const TensorRecord& r = c.file->tensors()[tensor];
  std::vector<float> w(r.rows() * r.cols());
  TensorDecodeOptions options;
  const MutableBytes out(reinterpret_cast<uint8_t*>(w.data()), w.size() * sizeof(float));
  EXPECT_TRUE(decode_tensor_rows(*c.file, c.tables, tensor, 0, r.rows(), Dtype::kF32, out, *c.runner, options).ok());
  return w;
}

TEST(IntegerProduct, HoldsTheWeightsExactly) {
  const std::unique_ptr<Coded> made = coded_file();
  Coded& c = *made;
  ASSERT_FALSE(c.tensors.empty());
  ASSERT_EQ(why_not_integers(*c.file->codec()), nullptr);
  for (const size_t tensor : c.tensors) {
    const std::vector<float> w = decoded(c, tensor);
    for (const IntegerWeights which : {IntegerWeights::kQ8, IntegerWeights::kPacked}) {
      const IntegerForm form = std::move(IntegerForms(*c.file).choose(tensor, which, true).value());
      Aligned data = integers(c, tensor, form);
      std::vector<float> row(form.cols);
      for (uint64_t i = 0; i < form.rows; ++i) {
        integer_row(form, data.data(), i, row.data());
        for (uint64_t j = 0; j < form.cols; ++j) {
          const float want = w[i * form.cols + j];
          ASSERT_NEAR(row[j], want, 4e-7f * std::abs(want)) << i << ", " << j;
        }
      }
    }
  }
}

TEST(IntegerProduct, PartsOfATensorAreTheWhole) {
  const std::unique_ptr<Coded> made = coded_file();
  Coded& c = *made;
  for (const size_t tensor : c.tensors) {
    const IntegerForm form = std::move(IntegerForms(*c.file).choose(tensor, IntegerWeights::kPacked, true).value());
    Aligned whole = integers(c, tensor, form);
    Aligned parts(form.bytes);
    const uint64_t step = 2 * c.file->tensors()[tensor].tile_rows;
    for (uint64_t row = 0; row < form.rows; row += step) {
      const IntegerRequest request{tensor, &form, row, std::min(form.rows, row + step), parts.bytes()};
      ASSERT_TRUE(decode_integers(*c.decoder, {&request, 1}, *c.runner, {}).ok());
    }
    const Outlier* outliers = reinterpret_cast<const Outlier*>(whole.data() + form.outliers_at);
    const uint32_t count = reinterpret_cast<const uint32_t*>(whole.data() + form.begin_at)[form.row_blocks()];
    const uint64_t used = form.outliers_at + count * sizeof *outliers;
    EXPECT_TRUE(std::equal(whole.data(), whole.data() + used, parts.data()));
  }
}

TEST(IntegerProduct, TensorsDecodedTogetherAreTheSame) {
  const std::unique_ptr<Coded> made = coded_file();
  Coded& c = *made;
  std::vector<IntegerForm> forms;
  for (const size_t tensor : c.tensors)
    forms.push_back(std::move(IntegerForms(*c.file).choose(tensor, IntegerWeights::kPacked, true).value()));
  std::vector<Aligned> out;
  std::vector<IntegerRequest> requests;
  for (size_t i = 0; i < forms.size(); ++i) {
    out.emplace_back(forms[i].bytes);
    requests.push_back({c.tensors[i], &forms[i], 0, forms[i].rows, out[i].bytes()});
  }
  ASSERT_GT(requests.size(), 3u);
  ASSERT_TRUE(decode_integers(*c.decoder, requests, *c.runner, {}).ok());
  for (size_t i = 0; i < forms.size(); ++i) {
    Aligned alone = integers(c, c.tensors[i], forms[i]);
    const uint32_t count = reinterpret_cast<const uint32_t*>(alone.data() + forms[i].begin_at)[forms[i].row_blocks()];
    const uint64_t used = forms[i].outliers_at + count * sizeof(Outlier);
    EXPECT_TRUE(std::equal(alone.data(), alone.data() + used, out[i].data())) << i;
  }
  requests[1].row_begin = 1;
  const Status status = decode_integers(*c.decoder, requests, *c.runner, {});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find(c.file->tensors()[c.tensors[1]].name), std::string::npos) << status.message();
}

}  // namespace
}  // namespace nwc::test
