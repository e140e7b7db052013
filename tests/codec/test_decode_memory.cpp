// Decoding takes no more memory than planned, and decoding a row reads no more than its tiles.
#include <gtest/gtest.h>

#include "runtime/codec/fused_product.h"
#include "runtime/codec/integer_decode.h"
#include "tests/codec/reference_encoder.h"
#include "tests/heap_watch.h"

namespace nwc {
namespace {

using Model = reference::TestModel;

/// Small objects, and what the allocator adds to each.
constexpr uint64_t kSlack = 16u << 10;

Model make_model(uint32_t width, uint32_t blocks, bool trellis) {
  reference::CodecOptions options;
  options.width = width;
  options.blocks = blocks;
  options.activation = width == 0 ? Activation::kNone : Activation::kSilu;
  options.trellis_bits = trellis ? 4 : 0;
  const CodecRecord codec = reference::make_codec(options, 4);
  std::vector<reference::TestTensor> tensors;
  for (const auto& [rows, cols, tile_rows, tile_cols] :
       {std::array<uint32_t, 4>{1000, 64, 32, 64}, {32, 1000, 32, 512}, {150, 150, 128, 64}}) {
    reference::TensorOptions t;
    t.name = "t" + std::to_string(tensors.size());
    t.shape = {rows, cols};
    t.tile_rows = tile_rows;
    t.tile_cols = tile_cols;
    t.row_scales = tensors.size() != 1;
    t.wrapping = false;
    tensors.push_back(reference::make_tensor(codec, t, static_cast<uint32_t>(tensors.size())));
  }
  Result<Model> model = reference::make_model(codec, std::move(tensors));
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(model).value();
}

TEST(DecodeMemory, StaysWithinThePlan) {
  TensorDecodeOptions options;
  options.cpu = detect_cpu_level();
  for (const uint32_t width : {0u, 48u, 128u}) {
    const Model m = make_model(width, width == 0 ? 0 : 2, width != 48);
    const std::vector<size_t> all = {0, 1, 2};
    for (const uint32_t threads : {1u, 3u}) {
      const auto pool = make_thread_pool(threads);
      std::vector<uint8_t> out(1000 * 150 * 4);
      uint64_t most = 0;
      for (const size_t t : all) most = std::max(most, TensorDecoder::call_bytes(*m.file, t, threads));
      const uint64_t decoding = nwc::test::heap_growth([&] {
        const DecodeTables tables = build_decode_tables(*m.file->codec());
        TensorDecoder decoder(*m.file, tables);
        for (const size_t t : all) {
          const uint64_t rows = m.file->tensors()[t].rows();
          for (const uint64_t end : {rows, uint64_t{17}, rows - 1})
            ASSERT_TRUE(decoder.decode_rows(t, 0, end, Dtype::kF32, out, *pool, options).ok());
        }
      });
      EXPECT_LE(decoding, TensorDecoder::kept_bytes(*m.file, all) + most + kSlack) << width << " " << threads;

      const std::vector<float> x(1000, 1.0f);
      std::vector<float> y(1000);
      const uint64_t fused = nwc::test::heap_growth([&] {
        const DecodeTables tables = build_decode_tables(*m.file->codec());
        FusedProduct product(*m.file, tables);
        for (const size_t t : all) {
          const TensorRecord& r = m.file->tensors()[t];
          ASSERT_TRUE(
              product.multiply(t, 1, std::span(x).first(r.cols()), std::span(y).first(r.rows()), *pool, options).ok());
        }
      });
      EXPECT_LE(fused, FusedProduct::max_bytes(*m.file, threads, 1) + kSlack) << width << " " << threads;
    }
  }
}

TEST(DecodeMemory, IntegersStayWithinThePlanAndReadSideInformationOnce) {
  const Model m = make_model(0, 0, true);
  const IntegerForms forms(*m.file);
  for (const uint32_t threads : {1u, 3u}) {
    const auto pool = make_thread_pool(threads);
    TensorDecodeOptions options;
    options.cpu = detect_cpu_level();
    std::vector<IntegerForm> form;
    std::vector<std::vector<uint8_t>> memory;
    std::vector<IntegerRequest> all;
    uint64_t planned = TensorDecoder::kept_bytes(*m.file, std::vector<size_t>{0, 1, 2}), tiles = 0;
    for (const size_t t : {0u, 1u, 2u}) {
      form.push_back(std::move(forms.choose(t, IntegerWeights::kPacked, true).value()));
      // These tensors escape more often than their tables say.
      form[t].max_outliers = 2 * form[t].rows * form[t].cols;
      form[t].bytes = form[t].outliers_at + form[t].max_outliers * sizeof(Outlier);
      memory.emplace_back(form[t].bytes + 63);
      const uint64_t alone = TensorDecoder::call_bytes(*m.file, t, 0);
      planned += alone + integer_decode_bytes(form[t], m.file->tensors()[t].tile_cols, threads);
      tiles = std::max(tiles, TensorDecoder::call_bytes(*m.file, t, threads) - alone);
    }
    for (const size_t t : {0u, 1u, 2u}) {
      uint8_t* data = memory[t].data() + (0 - reinterpret_cast<uintptr_t>(memory[t].data())) % 64;
      all.push_back({t, &form[t], 0, form[t].rows, {data, form[t].bytes}});
    }
    const uint64_t growth = nwc::test::heap_growth([&] {
      const DecodeTables tables = build_decode_tables(*m.file->codec());
      TensorDecoder decoder(*m.file, tables);
      const Status status = decode_integers(decoder, all, *pool, options);
      ASSERT_TRUE(status.ok()) << status.message();
      const uint64_t before = decoder.sides_loaded();
      for (IntegerRequest part = all[0]; part.row_begin < form[0].rows; part.row_begin += 64) {
        part.row_end = std::min<uint64_t>(form[0].rows, part.row_begin + 64);
        ASSERT_TRUE(decode_integers(decoder, {&part, 1}, *pool, options).ok());
      }
      EXPECT_EQ(decoder.sides_loaded(), before + 1);
    });
    EXPECT_LE(growth, planned + tiles + kSlack) << threads;
  }
}

TEST(DecodeMemory, FurtherRowsReadNoSideInformation) {
  const Model m = make_model(16, 1, false);
  const auto pool = make_thread_pool(1);
  TensorDecoder decoder(*m.file, m.tables);
  std::vector<uint8_t> row(1000 * 4), whole(1000 * 64 * 4);
  ASSERT_TRUE(decoder.decode_rows(0, 0, 1000, Dtype::kF32, whole, *pool, {}).ok());
  const uint64_t before = decoder.sides_loaded();
  for (uint64_t r = 0; r < 1000; r += 37) {
    ASSERT_TRUE(decoder.decode_rows(0, r, r + 1, Dtype::kF32, row, *pool, {}).ok());
    ASSERT_TRUE(std::equal(row.begin(), row.begin() + 64 * 4, whole.begin() + static_cast<ptrdiff_t>(r * 64 * 4)));
    ASSERT_TRUE(decoder.decode_rows(1, r % 32, r % 32 + 1, Dtype::kF32, row, *pool, {}).ok());
  }
  EXPECT_EQ(decoder.sides_loaded(), before + 2) << "once for each of the two tensors";
  // Large parts of other tensors, as a stream of layers asks for, leave them alone.
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(decoder.decode_rows(2, 0, 140, Dtype::kF32, whole, *pool, {}).ok());
    ASSERT_TRUE(decoder.decode_rows(2, 140, 150, Dtype::kF32, whole, *pool, {}).ok());
    ASSERT_TRUE(decoder.decode_rows(0, 100, 500, Dtype::kF32, whole, *pool, {}).ok());
    ASSERT_TRUE(decoder.decode_rows(0, 7, 8, Dtype::kF32, row, *pool, {}).ok());
  }
  EXPECT_EQ(decoder.sides_loaded(), before + 2 + 1) << "tensor 2 once, for its parts";
  // Nor does a row allocate what grows with the tensor.
  const uint64_t growth =
      nwc::test::heap_growth([&] { ASSERT_TRUE(decoder.decode_rows(0, 99, 100, Dtype::kF32, row, *pool, {}).ok()); });
  EXPECT_LE(growth, TensorDecoder::call_bytes(*m.file, 0, 1));
  // Checksums that are asked for later are computed later.
  TensorDecoder unchecked(*m.file, m.tables);
  TensorDecodeOptions options;
  options.check_crc = false;
  ASSERT_TRUE(unchecked.decode_rows(0, 0, 1, Dtype::kF32, row, *pool, options).ok());
  ASSERT_TRUE(unchecked.decode_rows(0, 1, 2, Dtype::kF32, row, *pool, {}).ok());
  ASSERT_TRUE(unchecked.decode_rows(0, 2, 3, Dtype::kF32, row, *pool, options).ok());
  EXPECT_EQ(unchecked.sides_loaded(), 2u);
}

}  // namespace
}  // namespace nwc
