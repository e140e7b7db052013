#include <gtest/gtest.h>

#include "integrations/llama.cpp/gguf_stream.h"
#include "tests/data/temp_dir.h"
#include "tests/encode/synthetic_codec.h"
#include "trainer/data/model_source.h"
#include "trainer/encode/encoder.h"
#include "trainer/inspect/decompress.h"

namespace nwc {
namespace {

using test::load_file;
using test::TempDir;

const std::string kModel = NWC_SOURCE_DIR "/models/gutenlm-2.6m";
const std::string kGguf = NWC_SOURCE_DIR "/tests/fixtures/gguf/tiny-llama.gguf";

std::string compress(const std::string& model, const TempDir& folder) {
  const auto source = open_model_source(model);
  EXPECT_TRUE(source.ok()) << source.status().message();
  const std::string path = folder.file("m.nwc");
  EXPECT_TRUE(compress_model(**source, testing::synthetic_codec(), {}, path, {}, {}).ok());
  return path;
}

std::unique_ptr<GgufStream> open(const std::string& path, const std::string& type) {
  auto stream = GgufStream::open(path, find_gguf_file_type(type), 2);
  EXPECT_TRUE(stream.ok()) << stream.status().message();
  return std::move(stream).value();
}

std::string written(const std::string& path, const std::string& type, const TempDir& folder) {
  const auto file = NwcFile::open(open_file_reader(path).value()).value();
  const auto runner = make_thread_pool(1);
  const auto decoder = create_cpu_decoder(*file, *runner, detect_cpu_level()).value();
  const auto source = load_source_record(file->container()).value();
  std::vector<std::string> notes;
  const Status status = decompress_to_gguf(*file, *decoder, *runner, source ? &*source : nullptr,
                                           find_gguf_file_type(type), folder.file("m.gguf"), {}, &notes);
  EXPECT_TRUE(status.ok()) << status.message();
  return load_file(folder.file("m.gguf"));
}

std::string read_in_pieces(GgufStream& stream, size_t piece) {
  std::string text(stream.size(), '\xee');
  for (size_t at = 0; at < text.size(); at += piece) {
    const size_t count = std::min(piece, text.size() - at);
    const Status status = stream.read(at, {reinterpret_cast<uint8_t*>(text.data()) + at, count});
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return text;
}

TEST(GgufStream, IsTheFileThatDecompressWrites) {
  for (const std::string& model : {kModel, kGguf}) {
    const TempDir folder;
    const std::string path = compress(model, folder);
    for (const char* type : {"f16", "q8_0", "q4_k_m"}) {
      const std::string expected = written(path, type, folder);
      const auto stream = open(path, type);
      ASSERT_EQ(stream->size(), expected.size());
      for (const size_t piece : {expected.size(), size_t{1} << 20, size_t{4099}}) {
        EXPECT_TRUE(read_in_pieces(*stream, piece) == expected) << model << " " << type << " " << piece;
      }
    }
  }
}

TEST(GgufStream, ReadsTensorsInAnyOrder) {
  const TempDir folder;
  const std::string path = compress(kGguf, folder);
  const std::string expected = written(path, "f16", folder);
  const auto stream = open(path, "f16");
  for (const size_t at : {expected.size() - 7, size_t{40000}, expected.size() / 2, size_t{0}, size_t{40001}}) {
    std::vector<uint8_t> bytes(7);
    ASSERT_TRUE(stream->read(at, bytes).ok());
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), expected.substr(at, 7));
  }
  std::vector<uint8_t> bytes(8);
  EXPECT_EQ(stream->read(expected.size() - 7, bytes).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(stream->read(UINT64_MAX, bytes).code(), StatusCode::kInvalidArgument);
}

TEST(GgufStream, DecodesAheadWhateverIsReadFirst) {
  const TempDir folder;
  const std::string path = compress(kGguf, folder);
  const std::string expected = written(path, "f16", folder);
  {
    const auto stream = open(path, "f16");
    stream->begin();
    stream->begin();
    EXPECT_TRUE(read_in_pieces(*stream, expected.size()) == expected);
    stream->begin();
    EXPECT_TRUE(read_in_pieces(*stream, 4099) == expected) << "begun again";
  }
  {
    const auto stream = open(path, "f16");
    stream->begin();
    std::vector<uint8_t> last(7);
    ASSERT_TRUE(stream->read(expected.size() - 7, last).ok());
    EXPECT_EQ(std::string(last.begin(), last.end()), expected.substr(expected.size() - 7));
    EXPECT_TRUE(read_in_pieces(*stream, expected.size()) == expected);
  }
  open(path, "f16")->begin();  // and never read
}

TEST(GgufStream, KnowsItsParts) {
  const TempDir folder;
  const auto stream = open(compress(kGguf, folder), "f16");
  const uint64_t first = stream->part_end(0);  // the header's end
  const uint64_t second = stream->part_end(first);
  EXPECT_EQ(first % 32, 0u);
  EXPECT_EQ(stream->part_end(second - 1), second);
  EXPECT_EQ(stream->part_end(stream->size() - 1), stream->size());
  EXPECT_TRUE(stream->ready(7) && stream->ready(first) && stream->ready(second));
  EXPECT_FALSE(stream->ready(first + 1));
  std::vector<uint8_t> bytes(5);
  ASSERT_TRUE(stream->read(first + 1, bytes).ok());
  EXPECT_TRUE(stream->ready(first + 6)) << "the tensor is kept";
  std::vector<uint8_t> rest(second - first - 1);
  ASSERT_TRUE(stream->read(first + 1, rest).ok());
  EXPECT_FALSE(stream->ready(first + 6)) << "read to its end";
}

TEST(GgufStream, SaysWhatIsWrong) {
  const TempDir folder;
  EXPECT_EQ(GgufStream::open(folder.file("none"), nullptr, 1).status().code(), StatusCode::kIo);
  EXPECT_EQ(GgufStream::open(kGguf, nullptr, 1).status().code(), StatusCode::kUnrecognized);
  // A bit of a tile: the checksum is looked at when its tensor is read.
  const std::string path = compress(kModel, folder);
  std::string damaged = load_file(path);
  damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
  const auto stream = open(folder.write("damaged.nwc", damaged), "f16");
  std::vector<uint8_t> all(stream->size());
  Status status = stream->read(0, all);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("tensor \""), std::string::npos) << status.message();
  stream->begin();
  status = stream->read(0, all);
  EXPECT_FALSE(status.ok()) << "what fails ahead fails again";
  EXPECT_NE(status.message().find("tensor \""), std::string::npos) << status.message();
}

}  // namespace
}  // namespace nwc
