#include <gtest/gtest.h>

#include "runtime/format/nwc_file.h"
#include "tests/data/safetensors_bytes.h"
#include "tests/data/temp_dir.h"
#include "trainer/codec/identity_codec.h"
#include "trainer/encode/encoder.h"
#include "trainer/encode/raw_image.h"

namespace nwc {
namespace {

using enum NoteKind;

const SourceNotes kNotes = {{kModelLeftOut, "", "config.json: yarn"},
                            {kTensorsLeftOut, "", "a"},
                            {kTensorsLeftOut, "", "b"},
                            {kGuessed, "pre_tokenizer", "GPT-2's rules are assumed"},
                            {kRepaired, "end_tokens", "token -1 is ignored"}};

TEST(SourceNotes, BecomeEntriesOfProvenance) {
  const Metadata entries = to_metadata(kNotes);
  EXPECT_EQ(entries, (Metadata{{"left_out.model", "config.json: yarn"},
                               {"left_out.tensors", "a; b"},
                               {"guessed.pre_tokenizer", "GPT-2's rules are assumed"},
                               {"repaired.end_tokens", "token -1 is ignored"}}));
  EXPECT_EQ(join_notes(kNotes, kTensorsLeftOut), "a; b");
  EXPECT_EQ(join_notes(kNotes, kTokenizerLeftOut), "");
  EXPECT_EQ(describe(kNotes[0]), "model description left out: config.json: yarn");
}

TEST(SourceNotes, AreStoredAsUtf8OfBoundedLength) {
  const Metadata entries = to_metadata({{kTokenizerLeftOut, "", "a\xff\xc3\xa9" + std::string(1 << 20, 'x')}});
  const std::string& text = entries.at("left_out.tokenizer");
  EXPECT_EQ(text.substr(0, 5), "a?\xc3\xa9x");
  EXPECT_LE(text.size(), 64u << 10);
  EXPECT_TRUE(parse_metadata(serialize(entries), 0).ok());
}

// The reason is in the image of an uncompressed model, in the compressed file, and in what a user of either is told.
TEST(SourceNotes, ReachWhoeverNeedsWhatIsMissing) {
  const test::TempDir dir;
  const std::string data(4 * 64 * 64, '\0');
  dir.write("model.safetensors",
            test::safetensors_bytes("{" + test::entry("w", "F32", "[64,64]", 0, data.size()) + "}", data));
  dir.write("config.json", R"({"architectures":["OtherForCausalLM"]})");
  Result<std::unique_ptr<ModelSource>> opened = open_model_source(dir.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const std::shared_ptr<const ModelSource> source = std::move(opened).value();

  const auto expect_reasons = [](std::unique_ptr<Reader> reader) {
    const auto file = NwcFile::open(std::move(reader));
    ASSERT_TRUE(file.ok()) << file.status().message();
    const Status model = (*file)->model_status(), tokenizer = (*file)->tokenizer_status();
    EXPECT_EQ(model.code(), StatusCode::kUnsupported);
    EXPECT_NE(model.message().find("OtherForCausalLM"), std::string::npos) << model.message();
    EXPECT_EQ(tokenizer.code(), StatusCode::kUnsupported);
    EXPECT_NE(tokenizer.message().find("no tokenizer.json"), std::string::npos) << tokenizer.message();
  };
  Result<std::unique_ptr<Reader>> image = make_raw_image(source, 1);
  ASSERT_TRUE(image.ok()) << image.status().message();
  expect_reasons(std::move(image).value());

  const std::string path = dir.file("m.nwc");
  CompressOptions options;
  options.threads = 1;
  options.min_elements = UINT64_MAX;
  const Result<CompressReport> report = compress_model(*source, identity_codec(), options, path, {}, {});
  ASSERT_TRUE(report.ok()) << report.status().message();
  Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  ASSERT_TRUE(reader.ok());
  expect_reasons(std::move(reader).value());
}

}  // namespace
}  // namespace nwc
