// Random codecs and model files in memory, for comparing backends.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/codec/synthesis.h"
#include "runtime/decoder/vulkan/vulkan_decoder.h"
#include "trainer/search/rans_encode.h"

namespace nwc::testing {

struct Random {
  uint64_t state = 0x9e3779b97f4a7c15u;
  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33);
  }
  uint32_t below(uint32_t n) { return next() % n; }
  float symmetric() { return static_cast<float>(next()) / static_cast<float>(1u << 30) - 1.0f; }
};

inline FrequencyTable random_table(Random* random, bool raw_bits) {
  FrequencyTable table;
  const uint32_t kind = random->below(6);
  uint32_t n = kind == 0 ? 1 : kind == 1 ? 2 : kind == 2 ? 128 : 2 + random->below(100);
  table.raw_bits = raw_bits && random->below(2) == 0 ? static_cast<uint8_t>(1 + random->below(7)) : 0;
  table.min = static_cast<int16_t>(-static_cast<int>(n / 2));
  std::vector<uint32_t> weight(n);
  uint32_t sum = 0;
  for (uint32_t& w : weight) sum += w = 1 + random->below(random->below(4) == 0 ? 1000 : 50);
  // Rounded down; the rest goes to the first symbol.
  uint32_t total = 0;
  for (uint32_t i = 0; i < n; ++i) {
    table.freq.push_back(static_cast<uint16_t>(1 + uint64_t{weight[i]} * (kProbScale - n) / sum));
    if (i != 0) total += table.freq[i];
  }
  table.freq[0] = static_cast<uint16_t>(kProbScale - total);
  return table;
}

struct CodecSpec {
  uint32_t levels = 3, tables = 5, width = 0, blocks = 0;
  Activation activation = Activation::kNone;
  bool layer_norm = false, raw_bits = true;
  uint64_t seed = 1;
};

inline CodecRecord random_codec(const CodecSpec& spec) {
  Random random{spec.seed};
  CodecRecord codec;
  codec.preset = spec.width == 0 ? Preset::kLinear : Preset::kOther;
  codec.num_levels = spec.levels;
  for (uint32_t l = 0; l < spec.levels; ++l) {
    codec.step.push_back(0.05f + 0.1f * static_cast<float>(random.below(8)));
    codec.shrink.push_back(l % 2 == 0 ? 0.0f : 0.125f);
    codec.rate.push_back(1.0f);
    for (uint32_t c = 0; c < kChunk; ++c) codec.context_map.push_back(static_cast<uint16_t>(random.below(spec.tables)));
  }
  for (uint32_t t = 0; t < spec.tables; ++t) codec.tables.push_back(random_table(&random, spec.raw_bits));
  const auto fill = [&](std::vector<float>* v, size_t size, float scale, float offset = 0) {
    for (size_t i = 0; i < size; ++i) v->push_back(offset + scale * random.symmetric());
  };
  Network& net = codec.synthesis;
  const uint32_t w = net.width = spec.width;
  net.activation = spec.activation;
  net.layer_norm = spec.layer_norm;
  fill(&net.skip_weight, kChunk * kChunk, 0.3f);
  if (w != 0) {
    const float inner = 1.0f / static_cast<float>(std::sqrt(static_cast<double>(w)));
    fill(&net.input_weight, w * kChunk, 0.3f);
    fill(&net.input_bias, w, 0.1f);
    for (uint32_t b = 0; b < spec.blocks; ++b) {
      NetworkBlock block;
      fill(&block.weight, size_t{w} * w, inner);
      fill(&block.bias, w, 0.1f);
      if (spec.layer_norm) {
        fill(&block.norm_gain, w, 0.2f, 1.0f);
        fill(&block.norm_bias, w, 0.2f);
      }
      net.blocks.push_back(std::move(block));
    }
    fill(&net.output_weight, kChunk * w, inner);
    fill(&net.output_bias, kChunk, 0.1f);
    fill(&net.level_embedding, size_t{spec.blocks} * spec.levels * w, 0.2f, 0.9f);
  }
  codec.codec_id = compute_codec_id(codec);
  return codec;
}

/// One tensor of a file: a record whose offset, size and crc are not set yet, and its stored bytes.
struct StoredTensor {
  TensorRecord record;
  std::vector<uint8_t> bytes;
};

struct CodedSpec {
  std::string name = "coded";
  uint64_t m = 64, n = 64;
  uint32_t tile_rows = 32, tile_cols = 64;
  bool row_scales = false;
  uint64_t seed = 7;
  std::vector<uint64_t> shape = {};  ///< empty: [m][n]; else its first `split` dimensions are the m rows
  uint32_t split = 1;
  bool free_states = true;
};

inline StoredTensor coded_tensor(const CodecRecord& codec, const CodedSpec& spec) {
  Random random{spec.seed};
  StoredTensor tensor;
  TensorRecord& r = tensor.record;
  r.name = spec.name;
  r.storage = Storage::kCoded;
  r.shape = spec.shape.empty() ? std::vector<uint64_t>{spec.m, spec.n} : spec.shape;
  r.split = spec.split;
  r.tile_rows = spec.tile_rows;
  r.tile_cols = spec.tile_cols;
  r.row_scales = spec.row_scales;
  r.free_states = spec.free_states;
  r.scale_base = 0.01f;
  if (spec.row_scales) r.row_scale_base = 0.5f;
  ByteWriter side;
  std::vector<uint8_t> level;
  for (uint64_t i = 0; i < spec.n; ++i)
    side.write(level.emplace_back(static_cast<uint8_t>(random.below(codec.num_levels))));
  for (uint64_t i = 0; i < spec.n; ++i)
    side.write(static_cast<uint8_t>(random.below(20) == 0 ? 0 : 1 + random.below(40)));
  if (spec.row_scales) {
    for (uint64_t i = 0; i < spec.m; ++i)
      side.write(static_cast<uint8_t>(random.below(20) == 0 ? 0 : 1 + random.below(24)));
  }
  const EncodeTables tables(codec);
  const TileGrid grid = tile_grid(r);
  ByteWriter directory;
  std::vector<uint8_t> payloads;
  for (uint64_t t = 0; t < grid.num_tiles(); ++t) {
    const TileGeometry g = grid.tile(t);
    std::vector<int16_t> values;
    for (uint32_t i = 0; i < g.row_blocks() * g.width * kChunk; ++i) {
      const uint32_t column = static_cast<uint32_t>(g.col) + i / kChunk % g.width;
      const FrequencyTable& table = codec.tables[codec.context_map[level[column] * kChunk + i % kChunk]];
      const int n = static_cast<int>(table.freq.size());
      // Mostly values that the table has, a few that have to escape.
      const int s = n == 1 ? 0 : static_cast<int>(random.below(static_cast<uint32_t>(n - 1)));
      int value = ((s + table.min) << table.raw_bits) + static_cast<int>(random.below(1u << table.raw_bits));
      if (random.below(100) == 0) value = static_cast<int>(random.below(65536)) - 32768;
      values.push_back(static_cast<int16_t>(value));
    }
    std::vector<uint8_t> payload;
    encode_tile(tables, g, level.data() + g.col, nullptr, values, &payload);
    directory.write(static_cast<uint32_t>(payload.size()));
    directory.write(crc32(payload));
    payloads.insert(payloads.end(), payload.begin(), payload.end());
  }
  const std::vector<uint8_t> deflated = deflate_bytes(side.bytes());
  r.side_size = static_cast<uint32_t>(deflated.size());
  ByteWriter blob;
  blob.write_bytes(deflated);
  blob.write_bytes(directory.bytes());
  r.crc = crc32(blob.bytes());
  blob.write_bytes(payloads);
  tensor.bytes = blob.take();
  return tensor;
}

inline StoredTensor raw_tensor(const std::string& name, Dtype dtype, uint64_t m, uint64_t n,
                               std::vector<uint8_t> bytes) {
  StoredTensor tensor;
  tensor.record.name = name;
  tensor.record.dtype = dtype;
  tensor.record.shape = {m, n};
  tensor.record.crc = crc32(bytes);
  tensor.bytes = std::move(bytes);
  return tensor;
}

/// A model file's bytes. The last tensor lies at the end of the file.
inline std::vector<uint8_t> model_file(const CodecRecord& codec, std::vector<StoredTensor> tensors) {
  std::vector<TensorRecord> records;
  ByteWriter data;
  for (StoredTensor& t : tensors) {
    while (data.size() % 64 != 0) data.write<uint8_t>(0);
    t.record.offset = data.size();
    t.record.size = t.bytes.size();
    data.write_bytes(t.bytes);
    records.push_back(t.record);
  }
  const std::vector<std::pair<SectionType, std::vector<uint8_t>>> sections = {
      {SectionType::kCodec, serialize(codec)},
      {SectionType::kTensors, serialize(records)},
      {SectionType::kProvenance, serialize(Metadata{{"encoder", "test"}})},
      {SectionType::kData, data.bytes()}};
  ByteWriter table, body;
  const uint64_t start = kHeaderBytes + sections.size() * kSectionEntryBytes;
  for (const auto& [type, bytes] : sections) {
    table.write(static_cast<uint32_t>(type));
    table.write<uint32_t>(0);
    table.write<uint64_t>(start + body.size());
    table.write<uint64_t>(bytes.size());
    table.write<uint64_t>(bytes.size());
    table.write<uint32_t>(type == SectionType::kData ? 0 : crc32(bytes));
    for (int i = 0; i < 3; ++i) table.write<uint32_t>(0);
    body.write_bytes(bytes);
  }
  ByteWriter file;
  file.write_bytes(kMagic);
  file.write(kVersionMajor);
  file.write(kVersionMinor);
  file.write(static_cast<uint32_t>(FileKind::kModel));
  file.write<uint64_t>(start + body.size());
  file.write(static_cast<uint32_t>(sections.size()));
  file.write(crc32(table.bytes()));
  for (int i = 0; i < 7; ++i) file.write<uint32_t>(0);
  file.write(crc32(file.bytes()));
  file.write_bytes(table.bytes());
  file.write_bytes(body.bytes());
  return file.take();
}

inline std::unique_ptr<NwcFile> open_bytes(std::vector<uint8_t> bytes) {
  auto file = NwcFile::open(make_owned_reader(std::move(bytes)));
  EXPECT_TRUE(file.ok()) << file.status().message();
  return file.ok() ? std::move(file).value() : nullptr;
}

/// Collects log lines.
struct LogLines {
  std::vector<std::string> errors, warnings, all;
  Logger logger() {
    return {[](void* user, LogLevel level, const char* message) {
              auto* self = static_cast<LogLines*>(user);
              self->all.push_back(message);
              if (level == LogLevel::kError) self->errors.push_back(message);
              if (level == LogLevel::kWarning) self->warnings.push_back(message);
            },
            this};
  }
  bool mentions(const std::string& text) const {
    for (const std::string& line : all) {
      if (line.find(text) != std::string::npos) return true;
    }
    return false;
  }
};

/// f32 weights of rows [begin, end) of a coded tensor against what the scalar decoder's values give, within the
/// tolerance of doc/format.md, section 5.5. `values`: of the whole tensor.
inline void expect_weights_agree(const NwcFile& file, size_t tensor, std::span<const int16_t> values, uint64_t begin,
                                 uint64_t end, std::span<const float> got, float rounding = 0) {
  const uint64_t n = file.tensors()[tensor].cols();
  const auto coded = file.load_coded(tensor, true);
  ASSERT_TRUE(coded.ok());
  std::vector<uint8_t> level;
  for (size_t i = 0; i < values.size() / kChunk; ++i) level.push_back(coded->level[i % n]);
  std::vector<float> y(values.size());
  synthesize_chunks(CpuLevel::kScalar, *file.codec(), values, level.data(), y);
  int wrong = 0;
  for (uint64_t row = begin; row < end; ++row) {
    for (uint64_t column = 0; column < n; ++column) {
      const float* chunk = &y[(row / kChunk * n + column) * kChunk];
      float most = 0;
      for (uint32_t i = 0; i < kChunk; ++i) most = std::max(most, std::fabs(chunk[i]));
      const float scale = coded->scale[column] * (coded->row_scale.empty() ? 1.0f : coded->row_scale[row]);
      const float expected = scale == 0 ? 0 : chunk[row % kChunk] * scale;
      const float actual = got[(row - begin) * n + column];
      const float tolerance = 0x1p-14f * scale * (1 + most) + rounding * (std::fabs(expected) + 0x1p-13f);
      if (!(std::fabs(actual - expected) <= tolerance) && wrong++ < 5) {
        ADD_FAILURE() << "row " << row << " column " << column << ": " << actual << ", not " << expected;
      }
    }
  }
  EXPECT_EQ(wrong, 0);
}

inline bool vulkan_required() {
  const char* value = std::getenv("NWC_REQUIRE_VULKAN");
  return value != nullptr && std::string(value) == "1";
}

}  // namespace nwc::testing

/// Skips the test where there is no device, unless NWC_REQUIRE_VULKAN=1 makes that a failure.
#define NWC_NEED_DEVICE(status)                                                                           \
  do {                                                                                                    \
    const ::nwc::Status nwc_device_status = (status);                                                     \
    if (nwc_device_status.code() == ::nwc::StatusCode::kNoDevice && !::nwc::testing::vulkan_required()) { \
      GTEST_SKIP() << "no Vulkan device: " << nwc_device_status.message();                                \
    }                                                                                                     \
    ASSERT_TRUE(nwc_device_status.ok()) << nwc_device_status.message();                                   \
  } while (0)
