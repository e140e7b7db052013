// Coded tensors decoded to integers hold the weights exactly.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/base/half.h"
#include "runtime/codec/integer_decode.h"
#include "runtime/decoder/raw_tensor.h"
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

std::unique_ptr<Coded> coded_file(bool network = false) {
  auto made = std::make_unique<Coded>();
  Coded& c = *made;
  static const std::vector<uint8_t> with_network = network_compressed_bytes();
  c.file = std::move(NwcFile::open(make_owned_reader(network ? with_network : compressed_bytes())).value());
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
    std::vector<std::vector<float>> rows;  // of the first form
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
        if (which == IntegerWeights::kQ8) rows.push_back(row);
        ASSERT_EQ(row, rows[i]) << "the form is chosen by its speed";
      }
    }
  }
}

// Where there is a network, what it gives is rounded once more: by half a block scale, which is far less than what the
// codec changed.
TEST(IntegerProduct, RequantizedWeightsAreOffByHalfAScale) {
  const std::unique_ptr<Coded> made = coded_file(true);
  Coded& c = *made;
  ASSERT_FALSE(c.tensors.empty());
  ASSERT_NE(why_not_integers(*c.file->codec()), nullptr);
  const PlainModel original = load_model(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
  double requantized = 0, coding = 0;
  for (const size_t tensor : c.tensors) {
    const std::vector<float> w = decoded(c, tensor);
    const IntegerForm form = std::move(IntegerForms(*c.file).choose(tensor, IntegerWeights::kQ8, true).value());
    ASSERT_TRUE(form.requantized);
    EXPECT_EQ(IntegerForms(*c.file).choose(tensor, IntegerWeights::kPacked, true)->bytes, form.bytes);
    Aligned data = integers(c, tensor, form);
    const float* factor = reinterpret_cast<const float*>(data.data() + form.factor_at);
    const float* row_scale = reinterpret_cast<const float*>(data.data() + form.row_scale_at);
    const PlainTensor& plain = original.tensors.at(c.file->tensors()[tensor].name);
    std::vector<float> row(form.cols), source(w.size());
    convert_floats(plain.dtype, plain.bytes.data(), w.size(), Dtype::kF32, reinterpret_cast<uint8_t*>(source.data()));
    for (uint64_t i = 0; i < form.rows; ++i) {
      integer_row(form, data.data(), i, row.data());
      const uint8_t* block = data.data() + i / kChunk * form.row_block_bytes + form.block_scales_at();
      for (uint64_t j = 0; j < form.cols; ++j) {
        const uint64_t at = j / kUnitCols * kChunk + i % kChunk;
        const float scale = bf16_to_f32(reinterpret_cast<const uint16_t*>(block)[at]) * row_scale[i] * factor[j];
        const float want = w[i * form.cols + j];
        // The decoder's own kernels differ by rounding (doc/format.md, section 5.5), as they may from machine to
        // machine.
        ASSERT_NEAR(row[j], want, 0.501f * scale + 1e-5f * std::abs(want)) << i << ", " << j;
        requantized += std::pow(double{row[j]} - double{want}, 2);
        coding += std::pow(double{want} - double{source[i * form.cols + j]}, 2);
      }
    }
  }
  RecordProperty("requantized_over_coding_power", std::to_string(requantized / coding));
  EXPECT_LT(requantized, 0.005 * coding) << "at 4 bits a weight";
  EXPECT_GT(requantized, 0);
}

TEST(IntegerProduct, PartsOfATensorAreTheWhole) {
  for (const bool network : {false, true}) {
    const std::unique_ptr<Coded> made = coded_file(network);
    Coded& c = *made;
    for (const size_t tensor : c.tensors) {
      const IntegerForm form = std::move(IntegerForms(*c.file).choose(tensor, IntegerWeights::kPacked, true).value());
      Aligned whole = integers(c, tensor, form);
      Aligned parts(form.bytes);
      const uint64_t step = 2 * c.file->tensors()[tensor].tile_rows;
      for (uint64_t row = 0; row < form.rows; row += step) {
        const IntegerRequest request{tensor, &form, row, std::min(form.rows, row + step), parts.bytes()};
        TensorDecodeOptions options;  // a network's weights differ in their last bits from level to level
        if (network) options.cpu = detect_cpu_level();
        ASSERT_TRUE(decode_integers(*c.decoder, {&request, 1}, *c.runner, options).ok());
      }
      const Outlier* outliers = reinterpret_cast<const Outlier*>(whole.data() + form.outliers_at);
      const uint32_t count = reinterpret_cast<const uint32_t*>(whole.data() + form.begin_at)[form.row_blocks()];
      const uint64_t used = form.outliers_at + count * sizeof *outliers;
      EXPECT_TRUE(std::equal(whole.data(), whole.data() + used, parts.data()));
    }
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
