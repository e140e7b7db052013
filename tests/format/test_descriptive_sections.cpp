// A file can be opened and decoded whatever its MODEL and TOKENIZER sections hold (doc/format_model.md).
#include <gtest/gtest.h>

#include "tests/codec/reference_encoder.h"
#include "tests/model_records.h"

namespace nwc {
namespace {

using reference::Section;

std::vector<uint8_t> model_section() { return serialize(test::llama_record({.vocab = 4, .hidden = 8, .inner = 16})); }

std::vector<uint8_t> tokenizer_section() {
  TokenizerRecord r;
  r.tokens = {
      {"a", TokenType::kNormal}, {"b", TokenType::kNormal}, {"ab", TokenType::kNormal}, {"<s>", TokenType::kControl}};
  r.merges = {{0, 1, 2}};
  return serialize(r);
}

/// A file with two raw tensors, of 3 and 5 bytes at offsets 0 and 64 of DATA.
std::vector<uint8_t> make_file(const Section& model, const Section& tokenizer) {
  std::vector<TensorRecord> records(2);
  std::vector<uint8_t> data(69, 0);
  for (size_t i = 0; i < 2; ++i) {
    TensorRecord& r = records[i];
    r.name = i == 0 ? "first" : "second";
    r.dtype = Dtype::kU8;
    r.shape = {i == 0 ? 3u : 5u};
    r.offset = i == 0 ? 0 : 64;
    r.size = r.shape[0];
    r.group = static_cast<uint32_t>(i);
    for (uint64_t k = 0; k < r.size; ++k) data[r.offset + k] = static_cast<uint8_t>(10 * i + k + 1);
    r.crc = crc32(Bytes(data).subspan(r.offset, r.size));
  }
  return reference::make_container(FileKind::kModel, {model,
                                                      tokenizer,
                                                      {SectionType::kTensors, serialize(records)},
                                                      {SectionType::kProvenance, serialize(Metadata{})},
                                                      {SectionType::kData, std::move(data)}});
}

Section model_of(std::vector<uint8_t> bytes) { return {SectionType::kModel, std::move(bytes)}; }
Section tokenizer_of(std::vector<uint8_t> bytes) { return {SectionType::kTokenizer, std::move(bytes), true}; }

std::vector<uint8_t> with(std::vector<uint8_t> bytes, size_t at, uint8_t value) {
  bytes[at] = value;
  return bytes;
}

std::vector<uint8_t> cut(std::vector<uint8_t> bytes, size_t size) {
  bytes.resize(size);
  return bytes;
}

void expect_decodes(const NwcFile& file) {
  ASSERT_EQ(file.tensors().size(), 2u);
  std::vector<uint8_t> storage;
  const Result<Bytes> second = file.load_raw(1, true, &storage);
  ASSERT_TRUE(second.ok()) << second.status().message();
  EXPECT_EQ(std::vector<uint8_t>(second->begin(), second->end()), (std::vector<uint8_t>{11, 12, 13, 14, 15}));
}

TEST(DescriptiveSections, GoodOnesAreThere) {
  const auto file =
      NwcFile::open(make_owned_reader(make_file(model_of(model_section()), tokenizer_of(tokenizer_section()))));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_TRUE((*file)->model() && (*file)->model_status().ok());
  EXPECT_TRUE((*file)->tokenizer() && (*file)->tokenizer_status().ok());
  expect_decodes(**file);
}

struct Case {
  std::vector<uint8_t> bytes;
  StatusCode code;
  const char* message;
};

TEST(DescriptiveSections, ModelThatCannotBeUsed) {
  const std::vector<uint8_t> good = model_section();
  const Case cases[] = {
      {with(good, 0, 3), StatusCode::kUnsupported, "record version 3"},
      {cut(with(good, 0, 3), 5), StatusCode::kUnsupported, "record version 3"},
      {with(good, 44, 3), StatusCode::kUnsupported, "rope_scaling is 3"},
      {with(good, 45, 2), StatusCode::kUnsupported, "45"},
      {with(good, 47, 1), StatusCode::kUnsupported, "47"},
      {with(good, 4, 0), StatusCode::kCorrupt, "vocab_size"},
      {with(good, 19, 255), StatusCode::kLimit, "num_layers"},
      {cut(good, 40), StatusCode::kTruncated, "MODEL"},
      {{}, StatusCode::kTruncated, "MODEL"},
  };
  for (const Case& c : cases) {
    const auto file = NwcFile::open(make_owned_reader(make_file(model_of(c.bytes), tokenizer_of(tokenizer_section()))));
    ASSERT_TRUE(file.ok()) << c.message << ": " << file.status().message();
    EXPECT_FALSE((*file)->model().has_value()) << c.message;
    EXPECT_EQ((*file)->model_status().code(), c.code) << (*file)->model_status().message();
    EXPECT_NE((*file)->model_status().message().find(c.message), std::string::npos)
        << (*file)->model_status().message();
    EXPECT_TRUE((*file)->tokenizer().has_value());
    expect_decodes(**file);
  }
}

TEST(DescriptiveSections, TokenizerThatCannotBeUsed) {
  const std::vector<uint8_t> good = tokenizer_section();
  const Case cases[] = {
      {with(good, 0, 9), StatusCode::kUnsupported, "record version 9"},
      {with(good, 4, 3), StatusCode::kUnsupported, "needs record version 2"},
      {cut(with(good, 4, 3), 30), StatusCode::kUnsupported, "needs record version 2"},  // whatever follows
      {with(good, 5, 4), StatusCode::kUnsupported, "needs record version 2"},
      {with(good, 6, 64), StatusCode::kUnsupported, "64"},
      {with(good, 7, 1), StatusCode::kUnsupported, "reserved"},
      {with(good, 24 + 8, 5), StatusCode::kUnsupported, "token 0 has type 5"},
      {with(good, 20, 2), StatusCode::kTruncated, "merges"},
  };
  for (const Case& c : cases) {
    const auto file = NwcFile::open(make_owned_reader(make_file(model_of(model_section()), tokenizer_of(c.bytes))));
    ASSERT_TRUE(file.ok()) << c.message << ": " << file.status().message();
    EXPECT_FALSE((*file)->tokenizer().has_value()) << c.message;
    EXPECT_EQ((*file)->tokenizer_status().code(), c.code) << (*file)->tokenizer_status().message();
    EXPECT_NE((*file)->tokenizer_status().message().find(c.message), std::string::npos)
        << (*file)->tokenizer_status().message();
    EXPECT_TRUE((*file)->model().has_value());
    expect_decodes(**file);
  }
}

// Tests' containers have their sections right behind the table, in order.
TEST(DescriptiveSections, DamageIsStillAnErrorOfTheFile) {
  std::vector<uint8_t> bytes = make_file(model_of(model_section()), tokenizer_of(tokenizer_section()));
  bytes[64 + 5 * 48] ^= 1;
  EXPECT_EQ(NwcFile::open(make_owned_reader(bytes)).status().code(), StatusCode::kChecksum);
}

TEST(DescriptiveSections, ATokenizerThatDoesNotInflate) {
  // Stored as it is, and called deflated afterwards.
  std::vector<uint8_t> bytes = make_file(model_of(model_section()), {SectionType::kTokenizer, tokenizer_section()});
  store_le<uint32_t>(&bytes[64 + 48 + 4], kSectionDeflated);
  store_le(&bytes[28], crc32(Bytes(bytes).subspan(64, 5 * 48)));
  store_le(&bytes[60], crc32(Bytes(bytes).first(60)));
  const auto file = NwcFile::open(make_owned_reader(bytes));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ((*file)->tokenizer_status().code(), StatusCode::kCorrupt);
  expect_decodes(**file);
}

TEST(DescriptiveSections, PaddingBeforeATensorMustBeZero) {
  std::vector<uint8_t> bytes = make_file(model_of(model_section()), tokenizer_of(tokenizer_section()));
  const size_t data = bytes.size() - 69;
  for (const size_t at : {size_t{3}, size_t{63}}) {
    std::vector<uint8_t> damaged = bytes;
    damaged[data + at] = 1;
    const auto file = NwcFile::open(make_owned_reader(damaged));
    ASSERT_TRUE(file.ok()) << file.status().message();
    std::vector<uint8_t> storage;
    EXPECT_TRUE((*file)->load_raw(0, true, &storage).ok());
    EXPECT_TRUE((*file)->load_raw(1, false, &storage).ok());
    const Status status = (*file)->load_raw(1, true, &storage).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt);
    EXPECT_NE(status.message().find("offset " + std::to_string(data + at)), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace nwc
