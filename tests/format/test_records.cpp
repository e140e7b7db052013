#include <gtest/gtest.h>

#include <limits>

#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

std::vector<CodecRecord> sample_codecs() {
  std::vector<CodecRecord> codecs;
  reference::CodecOptions o;
  codecs.push_back(reference::make_codec(o, 1));
  o.width = 32;
  o.blocks = 2;
  o.activation = Activation::kSilu;
  o.layer_norm = true;
  o.max_raw_bits = 7;
  codecs.push_back(reference::make_codec(o, 2));
  o.f16 = true;
  codecs.push_back(reference::make_codec(o, 3));
  codecs.push_back(reference::make_codec({.trellis_bits = 3}, 4));
  codecs.push_back(reference::make_codec({.trellis_bits = 8, .row_classes = true}, 5));
  return codecs;
}

TEST(CodecRecord, RoundTripTruncationTrailing) {
  for (const CodecRecord& codec : sample_codecs()) {
    std::vector<uint8_t> bytes = serialize(codec);
    const auto parsed = parse_codec_record(bytes, 0);
    ASSERT_TRUE(parsed.ok()) << parsed.status().message();
    EXPECT_EQ(serialize(*parsed), bytes);
    EXPECT_EQ(compute_codec_id(*parsed), codec.codec_id);
    for (size_t size = 0; size < bytes.size(); size += 1 + size / 64)
      ASSERT_FALSE(parse_codec_record(Bytes(bytes).first(size), 0).ok());
    bytes.push_back(0);
    EXPECT_FALSE(parse_codec_record(bytes, 0).ok());
  }
}

TEST(CodecRecord, IdIsFnv1a) {
  CodecRecord codec = sample_codecs()[0];
  codec.codec_id = 0;
  uint64_t h = 14695981039346656037u;
  for (const uint8_t b : serialize(codec)) h = (h ^ b) * 1099511628211u;
  codec.codec_id = 123;  // does not take part
  EXPECT_EQ(compute_codec_id(codec), h);
}

TEST(CodecRecord, HeaderFieldsOutOfRange) {
  const std::vector<uint8_t> bytes = serialize(sample_codecs()[1]);
  for (const auto& [at, value] : std::vector<std::pair<size_t, int>>{{0, 2},
                                                                     {4, 32},
                                                                     {5, 4},
                                                                     {6, 1},
                                                                     {7, 1},
                                                                     {8, 8},
                                                                     {9, 16},
                                                                     {10, 9},
                                                                     {10, 0},
                                                                     {11, 0},
                                                                     {11, 3},
                                                                     {12, 2},
                                                                     {13, 2},
                                                                     {14, 0},
                                                                     {14, 65},
                                                                     {15, 2},
                                                                     {25, 5},
                                                                     {26, 2},
                                                                     {27, 1}}) {
    std::vector<uint8_t> changed = bytes;
    changed[at] = static_cast<uint8_t>(value);
    EXPECT_FALSE(parse_codec_record(changed, 0).ok()) << "byte " << at << " = " << value;
  }
}

TEST(CodecRecord, QuantizerTrellisBitsBanksAndContextBelongTogether) {
  // {quantizer, trellis bits, banks, context} and the field that the message has to name; empty: fine.
  struct Case {
    uint8_t quantizer, bits, banks, context;
    const char* field;
  };
  const std::vector<uint8_t> scalar = serialize(sample_codecs()[0]), trellis = serialize(sample_codecs()[3]);
  for (const Case& c : std::vector<Case>{{0, 0, 1, 0, ""},
                                         {0, 0, 1, 1, ""},
                                         {0, 3, 1, 0, "trellis_bits"},
                                         {0, 0, 2, 0, "banks"},
                                         {0, 0, 0, 0, "banks"},
                                         {1, 2, 2, 0, ""},
                                         {1, 6, 2, 1, ""},
                                         {1, 8, 2, 0, ""},
                                         {1, 0, 2, 0, "trellis_bits"},
                                         {1, 1, 2, 0, "trellis_bits"},
                                         {1, 7, 2, 0, "trellis_bits"},
                                         {1, 9, 2, 0, "trellis_bits"},
                                         {1, 3, 1, 0, "banks"},
                                         {1, 3, 3, 0, "banks"},
                                         {1, 3, 2, 2, "context"},
                                         {2, 3, 3, 0, "quantizer"}}) {
    std::vector<uint8_t> bytes = c.quantizer == 0 ? scalar : trellis;
    bytes[6] = c.quantizer;
    bytes[7] = c.bits;
    bytes[15] = c.banks;
    bytes[26] = c.context;
    const Status status = parse_codec_record(bytes, 0).status();
    EXPECT_EQ(status.ok(), *c.field == 0) << status.message();
    EXPECT_NE(status.message().find(c.field), std::string::npos) << c.field << ": " << status.message();
  }
}

TEST(CodecRecord, Validation) {
  const CodecRecord good = sample_codecs()[1];
  ASSERT_TRUE(validate(good).ok());
  const auto rejects = [&](const char* field, auto change) {
    CodecRecord r = good;
    change(r);
    const Status s = validate(r);
    EXPECT_FALSE(s.ok()) << field;
    EXPECT_NE(s.message().find(field), std::string::npos) << s.message();
  };
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  rejects("step[1]", [&](CodecRecord& r) { r.step[1] = 0; });
  rejects("step[0]", [&](CodecRecord& r) { r.step[0] = inf; });
  rejects("shrink[2]", [&](CodecRecord& r) { r.shrink[2] = 1; });
  rejects("shrink[0]", [&](CodecRecord& r) { r.shrink[0] = -0.1f; });
  rejects("rate[0]", [&](CodecRecord& r) { r.rate[0] = nan; });
  rejects("skip_weight[17]", [&](CodecRecord& r) { r.synthesis.skip_weight[17] = nan; });
  rejects("block.norm_gain", [&](CodecRecord& r) { r.synthesis.blocks[1].norm_gain[0] = inf; });
  rejects("level_embedding", [&](CodecRecord& r) { r.synthesis.level_embedding.pop_back(); });
  rejects("context_map[3]", [&](CodecRecord& r) { r.context_map[3] = 5; });
  rejects("freq", [&](CodecRecord& r) { ++r.tables[0].freq[0]; });
  rejects("freq", [&](CodecRecord& r) { r.tables[0].freq[0] = 0; });
  rejects("raw_bits", [&](CodecRecord& r) { r.tables[0].raw_bits = 8; });
  rejects("min", [&](CodecRecord& r) {
    r.tables[0].min = -32768;
    r.tables[0].raw_bits = 1;
  });
  rejects("min", [&](CodecRecord& r) { r.tables[0].min = 32767; });
  CodecRecord r = good;
  r.tables[1] = {7, 32767, {4096}};  // the escape alone: min stands for nothing
  EXPECT_TRUE(validate(r).ok());
  rejects("trellis_bits", [](CodecRecord& c) { c.trellis_bits = 3; });
  rejects("trellis_bits", [](CodecRecord& c) { c.quantizer = Quantizer::kTrellis; });
  rejects("context_map", [](CodecRecord& c) {
    c.quantizer = Quantizer::kTrellis;
    c.trellis_bits = 3;
  });
  rejects("context", [](CodecRecord& c) { c.context_kind = static_cast<ContextKind>(2); });
}

TEST(TensorRecord, ScaleCodes) {
  EXPECT_EQ(scale_from_code(0, 3.0f), 0.0f);
  EXPECT_EQ(scale_from_code(1, 3.0f), 3.0f);
  EXPECT_EQ(scale_from_code(9, 3.0f), 6.0f);
  EXPECT_FLOAT_EQ(scale_from_code(5, 1.0f), std::sqrt(2.0f));
  EXPECT_EQ(scale_from_code(255, 1.0f), std::bit_cast<float>(0x3fd744fdu) * 0x1p31f);
  for (int c = 1; c < 255; ++c)
    EXPECT_NEAR(scale_from_code(static_cast<uint8_t>(c + 1), 1) / scale_from_code(static_cast<uint8_t>(c), 1),
                1.0905077, 1e-6);
}

TEST(TensorRecord, TilesCoverTheMatrixOnce) {
  const TileGrid grid{300, 280, 128, 256};
  std::vector<int> seen(300 * 280, 0);
  for (uint64_t t = 0; t < grid.num_tiles(); ++t) {
    const TileGeometry g = grid.tile(t);
    for (uint64_t i = 0; i < g.height; ++i)
      for (uint64_t j = 0; j < g.width; ++j) ++seen[(g.row + i) * 280 + g.col + j];
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), 300 * 280);
  EXPECT_EQ(grid.tile(1).lanes(), 24u);
  EXPECT_EQ(grid.tile(5).row_blocks(), 3u);
}

struct Records {
  std::vector<TensorRecord> list;
  uint64_t data_size = 0;
};
Records sample_records() {
  Records r;
  TensorRecord raw;
  raw.name = "norm";
  raw.shape = {4, 5};
  raw.size = 80;
  TensorRecord coded;
  coded.name = "w";
  coded.storage = Storage::kCoded;
  coded.dtype = Dtype::kBf16;
  coded.row_scales = true;
  coded.group = 1;
  coded.shape = {100, 60};
  coded.offset = 128;
  coded.size = 1000;
  coded.side_size = 50;
  coded.tile_rows = 64;
  coded.tile_cols = 32;
  coded.scale_base = coded.row_scale_base = 1;
  r.list = {raw, coded};
  r.data_size = 1128;
  return r;
}

TEST(TensorRecord, RoundTripTruncationTrailing) {
  const Records r = sample_records();
  std::vector<uint8_t> bytes = serialize(r.list);
  const auto parsed = parse_tensor_records(bytes, 0, r.data_size);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  EXPECT_EQ(serialize(*parsed), bytes);
  for (size_t size = 0; size < bytes.size(); ++size)
    ASSERT_FALSE(parse_tensor_records(Bytes(bytes).first(size), 0, r.data_size).ok());
  bytes.push_back(0);
  EXPECT_FALSE(parse_tensor_records(bytes, 0, r.data_size).ok());
  EXPECT_TRUE(parse_tensor_records(serialize(std::vector<TensorRecord>{}), 0, 0)->empty());
}

TEST(TensorRecord, SplitSaysWhichDimensionsAreRows) {
  Records r = sample_records();
  r.list[1].shape = {4, 25, 6, 10};
  const std::pair<uint64_t, uint64_t> expected[] = {{4, 1500}, {100, 60}, {600, 10}, {6000, 1}};
  for (uint32_t split = 1; split <= 4; ++split) {
    r.list[1].split = split;
    const std::vector<uint8_t> bytes = serialize(r.list);
    EXPECT_EQ(r.list[1].rows(), expected[split - 1].first);
    EXPECT_EQ(r.list[1].cols(), expected[split - 1].second);
    if (split != 2) continue;  // what the other shapes need does not fit the sample's size
    const auto parsed = parse_tensor_records(bytes, 0, r.data_size);
    ASSERT_TRUE(parsed.ok()) << parsed.status().message();
    EXPECT_EQ(parsed->at(1).split, split);
    EXPECT_EQ(tile_grid(parsed->at(1)).m, 100u);
    EXPECT_EQ(tile_grid(parsed->at(1)).n, 60u);
    EXPECT_EQ(serialize(*parsed), bytes);
  }
  // Files before version 1.2: no bit, the first dimension.
  EXPECT_EQ(parse_tensor_records(serialize(sample_records().list), 0, r.data_size)->at(1).split, 1u);
}

TEST(TensorRecord, EveryElementTypeAndRank) {
  for (uint8_t d = 0; d < kNumDtypes; ++d) {
    TensorRecord record;
    record.name = "t";
    record.dtype = static_cast<Dtype>(d);
    record.shape.assign(64, 1);
    record.shape[63] = 8;
    record.size = dtype_bits(record.dtype);  // eight elements
    const auto parsed = parse_tensor_records(serialize({record}), 0, record.size);
    ASSERT_TRUE(parsed.ok()) << parsed.status().message();
    EXPECT_EQ(parsed->at(0).raw_bytes(), record.size);
    EXPECT_EQ(parsed->at(0).shape, record.shape);
    record.shape[0] = 0;
    record.size = 0;
    EXPECT_TRUE(parse_tensor_records(serialize({record}), 0, 0).ok());
  }
}

TEST(TensorRecord, HostileFields) {
  const auto rejects = [](const char* what, auto change) {
    Records r = sample_records();
    change(r);
    EXPECT_FALSE(parse_tensor_records(serialize(r.list), 0, r.data_size).ok()) << what;
  };
  rejects("duplicate name", [](Records& r) { r.list[1].name = "norm"; });
  rejects("NUL", [](Records& r) { r.list[1].name = std::string("a\0b", 3); });
  rejects("not UTF-8", [](Records& r) { r.list[1].name = "\xff"; });
  rejects("storage", [](Records& r) { r.list[0].storage = static_cast<Storage>(3); });
  rejects("dtype", [](Records& r) { r.list[0].dtype = static_cast<Dtype>(22); });
  rejects("coded dtype", [](Records& r) { r.list[1].dtype = Dtype::kF64; });
  rejects("raw size", [](Records& r) { r.list[0].size = 79; });
  rejects("dimension", [](Records& r) { r.list[0].shape = {uint64_t{1} << 31, 0}; });
  rejects("elements", [](Records& r) { r.list[0].shape = {1u << 30, 1u << 30, 1u << 30}; });
  rejects("coded rank 0", [](Records& r) { r.list[1].shape = {}; });
  rejects("coded 0", [](Records& r) { r.list[1].shape = {100, 0}; });
  rejects("tile_rows 0", [](Records& r) { r.list[1].tile_rows = 0; });
  rejects("tile_rows", [](Records& r) { r.list[1].tile_rows = 24; });
  rejects("tile_cols", [](Records& r) { r.list[1].tile_cols = 48; });
  rejects("tile_cols limit", [](Records& r) { r.list[1].tile_cols = 544; });
  rejects("tile weights", [](Records& r) {
    r.list[1].tile_rows = 2048;
    r.list[1].tile_cols = 64;
  });
  rejects("base 0", [](Records& r) { r.list[1].scale_base = 0; });
  rejects("base nan", [](Records& r) { r.list[1].scale_base = std::nanf(""); });
  rejects("row base without flag", [](Records& r) { r.list[1].row_scales = false; });
  rejects("side_size", [](Records& r) { r.list[1].side_size = 1000 - 8 * 4 + 1; });
  rejects("raw with tiles", [](Records& r) { r.list[0].tile_rows = 16; });
  rejects("raw row scales", [](Records& r) { r.list[0].row_scales = true; });
  rejects("raw row classes", [](Records& r) { r.list[0].row_classes = true; });
  rejects("raw split", [](Records& r) { r.list[0].split = 2; });
  rejects("split of a matrix", [](Records& r) { r.list[1].split = 2; });
  rejects("split beyond the rank", [](Records& r) { r.list[1].split = 8; });
  rejects("rank", [](Records& r) { r.list[0].shape.assign(65, 1); });
  rejects("too many rows", [](Records& r) {
    r.list[1].shape = {1u << 16, 1u << 15, 1};
    r.list[1].split = 2;
  });
  rejects("half a byte", [](Records& r) {
    r.list[0].dtype = Dtype::kF4;
    r.list[0].shape = {3};
    r.list[0].size = 1;
  });
  rejects("overlap", [](Records& r) { r.list[1].offset = 79; });
  rejects("gap", [](Records& r) {
    r.list[1].offset = 80 + 4096;
    r.data_size = 80 + 4096 + 1000;
  });
  rejects("beyond DATA", [](Records& r) { --r.data_size; });
  rejects("bytes after the last", [](Records& r) { ++r.data_size; });
  rejects("offset overflow", [](Records& r) { r.list[1].size = UINT64_MAX - 10; });
  rejects("group comes back", [](Records& r) {
    r.list.push_back(r.list[0]);
    r.list[2].name = "norm2";
    r.list[2].offset = 1128;
    r.data_size += 80;
  });
}

TEST(NwcFile, SectionsAndTensorsByName) {
  const CodecRecord codec = sample_codecs()[0];
  std::vector<reference::TestTensor> tensors;
  tensors.push_back(reference::make_raw_tensor("r", {1, 2, 3}, false));
  tensors.push_back(reference::make_tensor(codec, {"w", {20, 40}, 16, 32, true, false}, 1));
  tensors.push_back(reference::make_raw_tensor("z", std::vector<uint8_t>(64, 5), true));
  const std::vector<uint8_t> bytes = reference::make_file(codec, &tensors);
  auto file = NwcFile::open(make_memory_reader(bytes));
  ASSERT_TRUE(file.ok()) << file.status().message();
  const NwcFile& f = **file;
  EXPECT_EQ(f.provenance().at("encoder"), "reference");
  EXPECT_EQ(f.find("w"), size_t{1});
  EXPECT_FALSE(f.find("x"));
  std::vector<uint8_t> storage;
  const Bytes raw = *f.load_raw(0, true, &storage);
  EXPECT_EQ(std::vector<uint8_t>(raw.begin(), raw.end()), (std::vector<uint8_t>{1, 2, 3}));
  EXPECT_EQ(f.load_raw(2, true, &storage)->size(), 64u);
  EXPECT_EQ(f.load_raw(1, true, &storage).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(f.load_coded(0, true).status().code(), StatusCode::kInvalidArgument);
  const auto coded = f.load_coded(1, true);
  ASSERT_TRUE(coded.ok()) << coded.status().message();
  EXPECT_EQ(coded->level, tensors[1].level);
  EXPECT_EQ(coded->tiles.size(), 4u);
  EXPECT_EQ(coded->row_scale.size(), 20u);
  EXPECT_EQ(coded->scale[3], scale_from_code(tensors[1].scale_code[3], 1e-3f));
}

/// Replaces a byte of the inflated side information.
void change_side_information(reference::TestTensor* t, size_t at, uint8_t value) {
  ByteWriter side;
  for (const auto* part : {&t->level, &t->scale_code, &t->row_scale_code, &t->row_class}) side.write_bytes(*part);
  std::vector<uint8_t> bytes = side.take();
  bytes.at(at) = value;
  const std::vector<uint8_t> deflated = deflate_bytes(bytes);
  TensorRecord& r = t->record;
  t->blob.erase(t->blob.begin(), t->blob.begin() + r.side_size);
  t->blob.insert(t->blob.begin(), deflated.begin(), deflated.end());
  r.side_size = static_cast<uint32_t>(deflated.size());
  r.size = t->blob.size();
  r.crc = crc32(Bytes(t->blob).first(deflated.size() + 8 * tile_grid(r).num_tiles()));
}

TEST(NwcFile, RowClasses) {
  const CodecRecord codec = reference::make_codec({.row_classes = true}, 1);
  std::vector<reference::TestTensor> tensors = {
      reference::make_tensor(codec, {"w", {20, 40}, 16, 32, true, false, true}, 1)};
  const auto load = [&](const CodecRecord& c) -> Result<CodedTensor> {
    NWC_ASSIGN_OR_RETURN(const auto file, NwcFile::open(make_owned_reader(reference::make_file(c, &tensors))));
    return file->load_coded(0, true);
  };
  const auto fails = [&](const CodecRecord& c, const std::string& text) {
    const Status status = load(c).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << status.message();
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
  };
  ASSERT_TRUE(load(codec).ok()) << load(codec).status().message();
  EXPECT_EQ(load(codec)->row_class, tensors[0].row_class);
  EXPECT_EQ(load(codec)->row_scale.size(), 20u);
  fails(reference::make_codec({}, 1), "tensor 'w'.flags: row classes");
  change_side_information(&tensors[0], 40 + 40 + 20 + 7, 16);
  fails(codec, "class 16 of row 7");
  change_side_information(&tensors[0], 40 + 40 + 20 + 7, 15);
  EXPECT_EQ(load(codec)->row_class[7], 15);
  // The flag, and with it the side information's size, does not fit what is stored.
  tensors[0].record.row_classes = false;
  fails(codec, "side information");
}

TEST(NwcFile, MissingOrForeignSections) {
  const CodecRecord codec = sample_codecs()[0];
  std::vector<reference::TestTensor> tensors = {reference::make_tensor(codec, {"w", {20, 40}, 16, 32}, 1)};
  const std::vector<uint8_t> bytes = reference::make_file(codec, &tensors);
  const auto reader = make_memory_reader(bytes);
  const Container c = *Container::open(*reader);
  std::vector<reference::Section> sections;
  for (const SectionEntry& e : c.sections()) sections.push_back({e.type, *c.load(e.type)});
  const auto opens = [](const std::vector<reference::Section>& s, FileKind kind = FileKind::kModel) {
    return NwcFile::open(make_owned_reader(reference::make_container(kind, s))).ok();
  };
  EXPECT_TRUE(opens(sections));
  EXPECT_FALSE(opens(sections, FileKind::kCodec));
  for (size_t i = 0; i < sections.size(); ++i) {
    std::vector<reference::Section> fewer = sections;
    fewer.erase(fewer.begin() + static_cast<ptrdiff_t>(i));
    EXPECT_EQ(opens(fewer), sections[i].type == SectionType::kQuality) << section_name(sections[i].type);
  }
  std::vector<reference::Section> more = sections;
  more.push_back({SectionType::kAnalysis, {}});
  EXPECT_FALSE(opens(more));
}

TEST(NwcFile, LevelAndScaleChecks) {
  CodecRecord codec = sample_codecs()[0];
  std::vector<reference::TestTensor> tensors = {reference::make_tensor(codec, {"w", {20, 40}, 16, 32}, 1)};
  tensors[0].record.scale_base = 3e38f;  // code 39 is 2^4.75 of it
  std::vector<uint8_t> bytes = reference::make_file(codec, &tensors);
  EXPECT_EQ((*NwcFile::open(make_memory_reader(bytes)))->load_coded(0, true).status().code(), StatusCode::kCorrupt);
  tensors[0].record.scale_base = 1;
  reference::CodecOptions fewer;
  fewer.levels = 1;
  bytes = reference::make_file(reference::make_codec(fewer, 1), &tensors);
  EXPECT_EQ((*NwcFile::open(make_memory_reader(bytes)))->load_coded(0, true).status().code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace nwc
