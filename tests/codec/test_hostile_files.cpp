// Whole files, damaged in every way that one byte allows: reading and decoding everything must report an error and
// stay in bounds (run under the address and undefined-behaviour sanitizers to see the latter).
#include <gtest/gtest.h>

#include "runtime/codec/tensor_decode.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

struct Sample {
  std::vector<uint8_t> bytes;
  uint64_t data_offset = 0;
  std::vector<TensorRecord> records;
};

Sample make_sample(bool trellis) {
  reference::CodecOptions options;
  options.trellis_bits = trellis ? 3 : 0;
  options.row_classes = trellis;
  options.levels = 2;
  options.tables = 3;
  options.alphabet = 12;
  options.varied = false;
  options.max_raw_bits = 1;
  const CodecRecord codec = reference::make_codec(options, 1);
  std::vector<reference::TestTensor> tensors;
  tensors.push_back(reference::make_raw_tensor("norm", {1, 2, 3, 4, 5, 6, 7}, false));
  tensors.push_back(reference::make_tensor(codec, {"w", {33, 35}, 32, 32, true, false, trellis}, 2));
  tensors.push_back(reference::make_raw_tensor("bias", std::vector<uint8_t>(100, 9), true));
  Sample s;
  s.bytes = reference::make_file(codec, &tensors);
  for (const auto& t : tensors) s.records.push_back(t.record);
  s.data_offset = (*NwcFile::open(make_memory_reader(s.bytes)))->data_offset();
  return s;
}

Status read_everything(Bytes bytes, CpuLevel cpu) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<NwcFile> file, NwcFile::open(make_memory_reader(bytes)));
  const auto pool = make_thread_pool(1);
  DecodeTables tables;
  if (file->codec()) tables = build_decode_tables(*file->codec());
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const TensorRecord& r = file->tensors()[i];
    std::vector<uint8_t> storage;
    if (r.storage == Storage::kCoded) {
      if (r.num_elements() > 1 << 20) return limit_error("larger than this test's tensors");
      storage.resize(r.num_elements() * 4);
      TensorDecodeOptions options;
      options.cpu = cpu;
      NWC_TRY(decode_tensor_rows(*file, tables, i, 0, r.rows(), Dtype::kF32, storage, *pool, options));
    } else {
      NWC_TRY(file->load_raw(i, true, &storage));
    }
  }
  return {};
}

// Without and with a trellis and row classes.
class HostileFiles : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Trellis, HostileFiles, testing::Bool());

TEST_P(HostileFiles, SampleIsFine) {
  const Sample s = make_sample(GetParam());
  for (const CpuLevel cpu : {CpuLevel::kScalar, detect_cpu_level()}) {
    const Status status = read_everything(s.bytes, cpu);
    EXPECT_TRUE(status.ok()) << status.message();
  }
}

TEST_P(HostileFiles, EveryTruncationIsAnError) {
  const Sample s = make_sample(GetParam());
  for (size_t size = 0; size < s.bytes.size(); ++size) {
    // A copy of its own, so that a sanitizer sees a read past its end.
    const std::vector<uint8_t> part(s.bytes.begin(), s.bytes.begin() + static_cast<ptrdiff_t>(size));
    const Status status = read_everything(part, detect_cpu_level());
    ASSERT_FALSE(status.ok()) << "truncated to " << size;
    ASSERT_FALSE(status.message().empty());
  }
}

// Those of the gaps between tensors, which have to be zero, included.
TEST_P(HostileFiles, EveryFlippedByteIsAnError) {
  const Sample s = make_sample(GetParam());
  std::vector<uint8_t> bytes = s.bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const uint8_t mask : {uint8_t{0x01}, uint8_t{0x80}, uint8_t{0xff}}) {
      bytes[i] ^= mask;
      const Status status = read_everything(bytes, i % 2 == 0 ? detect_cpu_level() : CpuLevel::kScalar);
      ASSERT_FALSE(status.ok()) << "byte " << i << " xor " << int{mask} << ": " << status.message();
      bytes[i] ^= mask;
    }
  }
}

// With every CRC-32 made right again, flips reach the parsers: they may be harmless, they must not do harm.
TEST_P(HostileFiles, FlipsBehindCorrectChecksumsStayInBounds) {
  const Sample s = make_sample(GetParam());
  const Container container = *Container::open(*make_memory_reader(s.bytes));
  int errors = 0;
  for (const SectionEntry& e : container.sections()) {
    if (e.type == SectionType::kData || e.type == SectionType::kTensors) continue;
    const size_t entry = kHeaderBytes + kSectionEntryBytes * static_cast<size_t>(&e - container.sections().data());
    for (uint64_t i = 0; i < e.stored_size; ++i) {
      std::vector<uint8_t> bytes = s.bytes;
      bytes[e.offset + i] ^= static_cast<uint8_t>(1 + i * 37 % 255);
      store_le(&bytes[entry + 32], crc32(Bytes(bytes).subspan(e.offset, e.stored_size)));
      store_le(&bytes[28], crc32(Bytes(bytes).subspan(64, 48 * container.sections().size())));
      store_le(&bytes[60], crc32(Bytes(bytes).first(60)));
      errors += !read_everything(bytes, detect_cpu_level()).ok();
    }
  }
  EXPECT_GT(errors, 20);
}

// The TENSORS section field by field, and the header and section table, with their CRC-32 made right.
TEST_P(HostileFiles, HostileRecordsAndTablesStayInBounds) {
  const Sample s = make_sample(GetParam());
  const auto reader = make_memory_reader(s.bytes);
  const Container container = *Container::open(*reader);
  std::vector<reference::Section> sections;
  for (const SectionEntry& e : container.sections()) sections.push_back({e.type, *container.load(e.type)});
  std::vector<uint8_t>& records = sections[1].bytes;
  for (size_t i = 0; i < records.size(); ++i) {
    for (const uint8_t value : {uint8_t{0x00}, uint8_t{0x7f}, uint8_t{0x80}, uint8_t{0xff}}) {
      const uint8_t before = std::exchange(records[i], value);
      static_cast<void>(read_everything(reference::make_container(FileKind::kModel, sections), detect_cpu_level()));
      records[i] = before;
    }
  }
  for (size_t i = 8; i < 64 + 48 * sections.size(); ++i) {
    for (const uint8_t value : {uint8_t{0x00}, uint8_t{0x7f}, uint8_t{0xff}}) {
      std::vector<uint8_t> bytes = s.bytes;
      bytes[i] = value;
      store_le(&bytes[28], crc32(Bytes(bytes).subspan(64, 48 * sections.size())));
      store_le(&bytes[60], crc32(Bytes(bytes).first(60)));
      static_cast<void>(read_everything(bytes, detect_cpu_level()));
    }
  }
}

}  // namespace
}  // namespace nwc
