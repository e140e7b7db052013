// Sizes that 32-bit addresses do not reach are refused, and nothing wraps. On 64-bit systems the same files open.
#include <gtest/gtest.h>

#include <cstring>

#include "runtime/base/checked.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

constexpr bool kSmall = sizeof(size_t) < 8;
constexpr uint64_t kGiB = uint64_t{1} << 30;

/// A model file of these tensors, whose bytes are all zero; only what is before them is held.
std::unique_ptr<Reader> file_of(const std::vector<TensorRecord>& records) {
  const uint64_t data = records.back().offset + records.back().size;
  std::vector<uint8_t> bytes =
      reference::make_container(FileKind::kModel, {{SectionType::kTensors, serialize(records), true},
                                                   {SectionType::kProvenance, serialize(Metadata{{"encoder", "test"}})},
                                                   {SectionType::kData, {}}});
  const size_t entry = 64 + 48 * 2;
  store_le(&bytes[entry + 16], data);
  store_le(&bytes[entry + 24], data);
  store_le(&bytes[16], uint64_t{bytes.size()} + data);
  store_le(&bytes[28], crc32(Bytes(bytes).subspan(64, 48 * 3)));
  store_le(&bytes[60], crc32(Bytes(bytes).first(60)));
  return make_callback_reader(bytes.size() + data, [bytes](uint64_t offset, void* out, size_t size) {
    std::memset(out, 0, size);
    if (offset < bytes.size())
      std::memcpy(out, bytes.data() + offset, std::min<size_t>(size, bytes.size() - static_cast<size_t>(offset)));
    return true;
  });
}

TensorRecord tensor_of(Dtype dtype, uint64_t rows, uint64_t cols) {
  TensorRecord r;
  r.name = "large";
  r.dtype = dtype;
  r.shape = {rows, cols};
  r.size = r.raw_bytes();
  return r;
}

// The last one has fewer bytes than 2 GiB in the file and more when it is decoded to f32.
TEST(Addresses, LargeTensorsAreRefusedWhereAddressesEnd) {
  for (const TensorRecord& r : {tensor_of(Dtype::kF32, 3, kGiB / 4), tensor_of(Dtype::kF32, 5, kGiB / 4),
                                tensor_of(Dtype::kF16, 3, kGiB / 4)}) {
    const auto file = NwcFile::open(file_of({r}));
    if (kSmall) {
      EXPECT_EQ(file.status().code(), StatusCode::kUnsupported);
      EXPECT_NE(file.status().message().find("tensor 'large': takes "), std::string::npos) << file.status().message();
      EXPECT_NE(file.status().message().find("2,147,483,647"), std::string::npos);
    } else {
      EXPECT_TRUE(file.ok()) << file.status().message();
    }
  }
}

TEST(Addresses, LargeFilesOfSmallerTensorsOpen) {
  std::vector<TensorRecord> records;
  for (uint32_t i = 0; i < 5; ++i) {
    records.push_back(tensor_of(Dtype::kF32, 1, kGiB / 4));
    records.back().name += std::to_string(i);
    records.back().group = i;
    records.back().offset = i * kGiB;
  }
  const auto file = NwcFile::open(file_of(records));
  ASSERT_TRUE(file.ok()) << file.status().message();
  uint64_t seen = 0;
  const Status status = (*file)->read_raw(4, kGiB - 16, kGiB, false, [&](uint64_t at, Bytes piece) {
    seen += piece.size();
    EXPECT_GE(at, kGiB - 16);
  });
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(seen, 16u);
}

TEST(Addresses, WhatIsAddressable) {
  EXPECT_TRUE(addressable((uint64_t{1} << 31) - 1));
  EXPECT_EQ(addressable(uint64_t{1} << 31), !kSmall);
  EXPECT_EQ(addressable(UINT64_MAX), !kSmall);
}

}  // namespace
}  // namespace nwc
