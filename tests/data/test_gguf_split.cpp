#include <gtest/gtest.h>

#include "tests/data/gguf_builder.h"
#include "tests/data/temp_dir.h"
#include "trainer/data/gguf_split.h"
#include "trainer/data/model_source.h"

namespace nwc {
namespace {

using test::GgufBuilder;
using test::TempDir;

GgufBuilder part(uint32_t no, uint32_t count = 3, uint32_t tensors = 4) {
  GgufBuilder builder;
  builder.u32("split.no", no).u32("split.count", count).i32("split.tensors.count", static_cast<int32_t>(tensors));
  return builder;
}

// The tensors: one, two and one.
void write_parts(const TempDir& dir) {
  dir.write("m-00001-of-00003.gguf", part(0).string("general.architecture", "other").f32_tensor("a", {4}, 1).build());
  dir.write("m-00002-of-00003.gguf", part(1).f32_tensor("b", {8}, 2).f32_tensor("c", {4, 2}, 3).build());
  dir.write("m-00003-of-00003.gguf", part(2).f32_tensor("d", {4}, 4).build());
}

TEST(GgufSplit, AnyPartOpensAll) {
  const TempDir dir;
  write_parts(dir);
  for (const char* name : {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    const auto source = open_model_source(dir.file(name));
    ASSERT_TRUE(source.ok()) << source.status().message();
    ASSERT_EQ((*source)->tensors().size(), 4u);
    for (const auto& [tensor, value] : {std::pair{"a", 1.f}, {"b", 2.f}, {"c", 3.f}, {"d", 4.f}}) {
      const auto values = (*source)->read_f32(*(*source)->find(tensor));
      ASSERT_TRUE(values.ok()) << values.status().message();
      EXPECT_EQ(values->front(), value);
    }
    EXPECT_EQ((*source)->stored_bytes(), 4u * (4 + 8 + 8 + 4));
    const Result<SourceFiles> kept = (*source)->source_files();
    ASSERT_TRUE(kept.ok()) << kept.status().message();
    ASSERT_EQ(kept->record.files.size(), 3u) << "the metadata of all parts travel along";
    EXPECT_EQ(kept->record.files[0].name, "header.gguf");
    EXPECT_EQ(kept->record.files[2].name, "header-3.gguf");
  }
}

void expect_error(const TempDir& dir, const std::string& name, StatusCode code, const std::string& text) {
  const auto source = open_model_source(dir.file(name));
  ASSERT_FALSE(source.ok());
  EXPECT_EQ(source.status().code(), code) << source.status().message();
  EXPECT_NE(source.status().message().find(text), std::string::npos) << source.status().message();
}

TEST(GgufSplit, AMissingPartIsNamed) {
  const TempDir dir;
  write_parts(dir);
  std::filesystem::remove(dir.file("m-00002-of-00003.gguf"));
  for (const char* name : {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    expect_error(dir, name, StatusCode::kIo, "part 2 of the split model, " + dir.file("m-00002-of-00003.gguf"));
  }
}

TEST(GgufSplit, PartsHaveToBelongTogether) {
  using enum StatusCode;
  const std::string first = "m-00001-of-00003.gguf";
  const TempDir dir;
  write_parts(dir);
  dir.write("m-00003-of-00003.gguf", part(1).f32_tensor("d", {4}, 4).build());
  expect_error(dir, first, kCorrupt, "split.no and split.count are 1 and 3, not 2 and 3");
  dir.write("m-00003-of-00003.gguf", part(2, 4).f32_tensor("d", {4}, 4).build());
  expect_error(dir, first, kCorrupt, "split.no and split.count are 2 and 4, not 2 and 3");
  dir.write("m-00003-of-00003.gguf", part(2).f32_tensor("a", {4}, 4).build());
  expect_error(dir, first, kCorrupt, "tensor \"a\" is in another part, too");
  dir.write("m-00003-of-00003.gguf", part(2).build());
  expect_error(dir, first, kCorrupt, "split.tensors.count is 4, the parts have 3 tensors");
  dir.write("m-00003-of-00003.gguf", GgufBuilder().f32_tensor("d", {4}, 4).build());
  expect_error(dir, first, kCorrupt, "part 3");
}

TEST(GgufSplit, NamesLeadToTheOtherParts) {
  const TempDir dir;
  dir.write("model.gguf", part(0).f32_tensor("a", {4}).build());
  expect_error(dir, "model.gguf", StatusCode::kUnsupported, "\"-00001-of-00003.gguf\"");
  dir.write("m-00002-of-00003.gguf", part(0).f32_tensor("a", {4}).build());
  expect_error(dir, "m-00002-of-00003.gguf", StatusCode::kUnsupported, "split into 3 files");
  dir.write("m-00001-of-00003.gguf", part(UINT32_MAX, 3).f32_tensor("a", {4}).build());
  expect_error(dir, "m-00001-of-00003.gguf", StatusCode::kUnsupported, "split into 3 files");
  dir.write("whole.gguf", part(0, 1, 1).f32_tensor("a", {4}).build());
  EXPECT_TRUE(open_model_source(dir.file("whole.gguf")).ok());
}

}  // namespace
}  // namespace nwc
