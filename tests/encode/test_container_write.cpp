#include <gtest/gtest.h>

#include "runtime/format/nwc_file.h"
#include "tests/encode/test_source.h"
#include "trainer/codec/container_write.h"

namespace nwc {
namespace {

using testing::TemporaryFolder;

std::vector<uint8_t> pattern(size_t n, uint32_t seed) {
  std::vector<uint8_t> out(n);
  std::mt19937 random(seed);
  for (uint8_t& b : out) b = static_cast<uint8_t>(random());
  return out;
}

TensorRecord raw_record(const std::string& name, uint32_t group, uint64_t size) {
  TensorRecord r;
  r.name = name;
  r.dtype = Dtype::kU8;
  r.group = group;
  r.shape = {size};
  return r;
}

/// Tensors of the given (group, size), contents from their index.
Result<uint64_t> write_model(const std::string& path, const std::vector<std::pair<uint32_t, uint64_t>>& tensors) {
  std::vector<TensorRecord> records;
  for (size_t i = 0; i < tensors.size(); ++i) {
    records.push_back(raw_record("t" + std::to_string(i), tensors[i].first, tensors[i].second));
  }
  const Section sections[] = {{.type = SectionType::kProvenance, .bytes = serialize(Metadata{{"encoder", "test"}})}};
  NWC_ASSIGN_OR_RETURN(ModelWriter writer, ModelWriter::create(path, sections, records));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<uint8_t> bytes = pattern(tensors[i].second, static_cast<uint32_t>(i));
    records[i].crc = crc32(bytes);
    const Bytes parts[] = {Bytes(bytes).first(bytes.size() / 3), Bytes(bytes).subspan(bytes.size() / 3)};
    NWC_TRY(writer.append(records[i], parts));
  }
  return writer.commit();
}

TEST(ContainerWrite, RawTensorsAreReplacedInPlace) {
  const TemporaryFolder folder;
  const std::string path = folder.file("m.nwc");
  std::vector<TensorRecord> records = {raw_record("a", 0, 100), raw_record("b", 0, 5000)};
  const Section sections[] = {{.type = SectionType::kProvenance, .bytes = serialize(Metadata{{"encoder", "test"}})}};
  Result<ModelWriter> writer = ModelWriter::create(path, sections, records);
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  for (size_t i = 0; i < records.size(); ++i) {
    const std::vector<uint8_t> bytes = pattern(records[i].shape[0], static_cast<uint32_t>(i));
    records[i].crc = crc32(bytes);
    const Bytes parts[] = {bytes};
    ASSERT_TRUE(writer->append(records[i], parts).ok());
  }
  const auto second = [](std::unique_ptr<Reader> reader) {
    const Result<std::unique_ptr<NwcFile>> file = NwcFile::open(std::move(reader));
    EXPECT_TRUE(file.ok()) << file.status().message();
    std::vector<uint8_t> storage;
    const Result<Bytes> bytes = (*file)->load_raw(1, true, &storage);
    EXPECT_TRUE(bytes.ok()) << bytes.status().message();
    return std::vector<uint8_t>(bytes->begin(), bytes->end());
  };
  Result<std::unique_ptr<Reader>> before = writer->preview();
  ASSERT_TRUE(before.ok()) << before.status().message();
  EXPECT_EQ(second(std::move(*before)), pattern(5000, 1));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(writer->replace_raw(1, pattern(4999, 7)).code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(writer->replace_raw(1, pattern(5000, 7)).ok());
  ASSERT_TRUE(writer->commit().ok());
  Result<std::unique_ptr<Reader>> after = open_file_reader(path);
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(second(std::move(*after)), pattern(5000, 7));
}

void expect_model(const std::string& path, const std::vector<std::pair<uint32_t, uint64_t>>& tensors) {
  Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  ASSERT_TRUE(reader.ok());
  const Result<std::unique_ptr<NwcFile>> file = NwcFile::open(std::move(*reader));
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ((*file)->tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::vector<uint8_t> storage;
    const Result<Bytes> bytes = (*file)->load_raw(i, true, &storage);
    ASSERT_TRUE(bytes.ok()) << bytes.status().message();
    const std::vector<uint8_t> expected = pattern(tensors[i].second, static_cast<uint32_t>(i));
    EXPECT_TRUE(std::equal(bytes->begin(), bytes->end(), expected.begin(), expected.end())) << i;
    const TensorRecord& r = (*file)->tensors()[i];
    const bool starts_group = i == 0 || tensors[i - 1].first != tensors[i].first;
    uint64_t group_bytes = 0;
    for (const auto& [group, size] : tensors) group_bytes += group == tensors[i].first ? size : 0;
    if (r.size == 0) continue;
    EXPECT_EQ(((*file)->data_offset() + r.offset) % (starts_group && group_bytes >= kLargeGroupBytes ? 4096 : 64), 0u)
        << i;
  }
}

TEST(ContainerWrite, SectionsComeBackDeflatedOrNot) {
  const TemporaryFolder folder;
  const std::string path = folder.file("c.nwcc");
  const std::vector<uint8_t> zeros(5000, 0), noise = pattern(777, 1);
  const Section sections[] = {{.type = SectionType::kCodec, .bytes = zeros, .deflate = true},
                              {.type = SectionType::kAnalysis, .bytes = noise, .deflate = true, .optional = true},
                              {.type = SectionType::kTraining, .bytes = {}}};
  ASSERT_TRUE(write_container(path, FileKind::kCheckpoint, sections).ok());
  const Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  ASSERT_TRUE(reader.ok());
  const Result<Container> container = Container::open(**reader);
  ASSERT_TRUE(container.ok()) << container.status().message();
  EXPECT_EQ(container->kind(), FileKind::kCheckpoint);
  EXPECT_EQ(*container->load(SectionType::kCodec), zeros);
  EXPECT_EQ(*container->load(SectionType::kAnalysis), noise);
  EXPECT_EQ(container->find(SectionType::kCodec)->flags, kSectionDeflated);
  EXPECT_EQ(container->find(SectionType::kAnalysis)->flags, kSectionOptional);
  EXPECT_LT((*reader)->size(), 2000u);
  EXPECT_EQ(folder.num_files(), 1u);
}

TEST(ContainerWrite, RefusesWhatCannotBeRead) {
  const TemporaryFolder folder;
  EXPECT_FALSE(write_container(folder.file("x"), FileKind::kCodec, {}).ok());
  const Section twice[] = {{.type = SectionType::kCodec, .bytes = {1}}, {.type = SectionType::kCodec, .bytes = {2}}};
  EXPECT_FALSE(write_container(folder.file("x"), FileKind::kCodec, twice).ok());
  const Section data[] = {{.type = SectionType::kData, .bytes = {1}}};
  EXPECT_FALSE(write_container(folder.file("x"), FileKind::kModel, data).ok());
  EXPECT_EQ(folder.num_files(), 0u);
}

TEST(ContainerWrite, GroupsAreAligned) {
  const TemporaryFolder folder;
  const std::vector<std::pair<uint32_t, uint64_t>> tensors = {{0, 100}, {1, 3u << 20}, {1, 2u << 20}, {1, 33},
                                                              {2, 5},   {2, 0},        {3, 5u << 20}, {4, 0}};
  const Result<uint64_t> size = write_model(folder.file("m.nwc"), tensors);
  ASSERT_TRUE(size.ok()) << size.status().message();
  EXPECT_EQ(std::filesystem::file_size(folder.file("m.nwc")), *size);
  expect_model(folder.file("m.nwc"), tensors);
}

TEST(ContainerWrite, AnUncommittedModelLeavesTheOldFile) {
  const TemporaryFolder folder;
  const std::string path = folder.file("m.nwc");
  ASSERT_TRUE(write_model(path, {{0, 10}}).ok());
  {
    const Section sections[] = {{.type = SectionType::kProvenance, .bytes = serialize(Metadata{})}};
    const Result<ModelWriter> writer = ModelWriter::create(path, sections, {raw_record("t", 0, 4)});
    ASSERT_TRUE(writer.ok());
    EXPECT_EQ(folder.num_files(), 2u);
  }
  EXPECT_EQ(folder.num_files(), 1u);
  expect_model(path, {{0, 10}});
}

TEST(ContainerWrite, QualityIsAddedAndReplaced) {
  const TemporaryFolder folder;
  const std::string path = folder.file("m.nwc");
  const std::vector<std::pair<uint32_t, uint64_t>> tensors = {{0, 100}, {1, 5u << 20}, {2, 7}};
  const Result<uint64_t> before = write_model(path, tensors);
  ASSERT_TRUE(before.ok());
  for (const std::string& value : {std::string("21.5"), std::string(10000, 'x'), std::string("3")}) {
    const Metadata quality = {{"ppl", value}};
    const Status status = replace_quality(path, path, quality);
    ASSERT_TRUE(status.ok()) << status.message();
    expect_model(path, tensors);
    Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
    ASSERT_TRUE(reader.ok());
    const Result<std::unique_ptr<NwcFile>> file = NwcFile::open(std::move(*reader));
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_EQ((*file)->quality(), quality);
    // Nothing moves: the writer left room for the entry.
    EXPECT_LE(std::filesystem::file_size(path), *before + serialize(quality).size() + 7);
  }
}

}  // namespace
}  // namespace nwc
