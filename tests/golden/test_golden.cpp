// Files of every released version decode for ever, to the same integers, at every level of the CPU. The scripts in
// tests/golden wrote the files; good/<name>.txt holds a line for each tensor: name, CRC-32 of its reconstruction
// indices as i16 (coded) or of its bytes (raw).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "runtime/codec/tensor_decode.h"

namespace nwc {
namespace {

std::string describe(const std::string& path, CpuLevel cpu) {
  Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  if (!reader.ok()) return {};
  Result<std::unique_ptr<NwcFile>> opened = NwcFile::open(std::move(reader).value());
  EXPECT_TRUE(opened.ok()) << opened.status().message();
  if (!opened.ok()) return {};
  const NwcFile& file = **opened;
  const auto runner = make_thread_pool(1);
  const DecodeTables tables = build_decode_tables(*file.codec());
  TensorDecodeOptions options;
  options.cpu = cpu;
  std::ostringstream out;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorRecord& t = file.tensors()[i];
    uint32_t crc = 0;
    if (t.storage == Storage::kCoded) {
      std::vector<int16_t> values(ceil_div(t.rows(), kChunk) * t.cols() * kChunk);
      const Status status = decode_tensor_values(file, tables, i, values, *runner, options);
      EXPECT_TRUE(status.ok()) << status.message();
      crc = crc32({reinterpret_cast<const uint8_t*>(values.data()), values.size() * 2});
    } else {
      std::vector<uint8_t> storage;
      const Result<Bytes> bytes = file.load_raw(i, true, &storage);
      EXPECT_TRUE(bytes.ok()) << bytes.status().message();
      if (bytes.ok()) crc = crc32(*bytes);
    }
    out << t.name << ' ' << std::hex << crc << std::dec << '\n';
  }
  return out.str();
}

TEST(Golden, EveryFileDecodesToItsValues) {
  const std::filesystem::path folder = std::filesystem::path(NWC_SOURCE_DIR) / "tests/golden/good";
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".nwc") continue;
    ++files;
    const std::filesystem::path text = std::filesystem::path(entry.path()).replace_extension(".txt");
    if (std::getenv("NWC_GOLDEN_WRITE") != nullptr && !std::filesystem::exists(text))
      std::ofstream(text) << describe(entry.path().string(), CpuLevel::kScalar);
    std::ifstream expected(text);
    const std::string lines((std::istreambuf_iterator<char>(expected)), {});
    for (const CpuLevel cpu : kCpuLevels) {
      if (cpu > detect_cpu_level()) continue;
      EXPECT_EQ(describe(entry.path().string(), cpu), lines) << entry.path() << ", " << cpu_level_name(cpu);
    }
  }
  EXPECT_GE(files, 14u);
}

Result<std::unique_ptr<NwcFile>> open_good(const std::string& name) {
  NWC_ASSIGN_OR_RETURN(auto reader, open_file_reader(NWC_SOURCE_DIR "/tests/golden/good/" + name));
  return NwcFile::open(std::move(reader));
}

// What a file of each new kind is there for is in it.
TEST(Golden, SplitTensorsAreMatrices) {
  const Result<std::unique_ptr<NwcFile>> file = open_good("split-v1.2.nwc");
  ASSERT_TRUE(file.ok()) << file.status().message();
  const auto record = [&](const std::string& name) { return (*file)->tensors()[(*file)->find(name).value()]; };
  EXPECT_EQ(record("experts").shape, (std::vector<uint64_t>{3, 25, 83}));
  EXPECT_EQ(record("experts").rows(), 75u);
  EXPECT_EQ(record("experts").cols(), 83u);
  EXPECT_EQ(record("kernel").rows(), 33u);
  EXPECT_EQ(record("kernel").cols(), 40u);
  EXPECT_EQ(record("deep").split, 8u);
  EXPECT_EQ(record("deep").cols(), 130u);
}

TEST(Golden, EveryElementTypeIsThere) {
  const Result<std::unique_ptr<NwcFile>> file = open_good("types-v1.2.nwc");
  ASSERT_TRUE(file.ok()) << file.status().message();
  std::set<Dtype> types;
  size_t most_dimensions = 0;
  for (const TensorRecord& t : (*file)->tensors()) {
    types.insert(t.dtype);
    most_dimensions = std::max(most_dimensions, t.shape.size());
  }
  EXPECT_EQ(types.size(), 22u);
  EXPECT_EQ(most_dimensions, 64u);
}

TEST(Golden, LaterRecordsStopSessionsOnly) {
  const Result<std::unique_ptr<NwcFile>> file = open_good("later-records-v1.2.nwc");
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ((*file)->container().minor_version(), 2);
  // Its MODEL record has the number of a version that was defined later, and none of its fields.
  EXPECT_FALSE((*file)->model_status().ok());
  EXPECT_EQ((*file)->tokenizer_status().code(), StatusCode::kUnsupported);
}

TEST(Golden, ModelsTokenizersAndChatsAreDescribed) {
  const Result<std::unique_ptr<NwcFile>> opened = open_good("families-v1.3.nwc");
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const NwcFile& file = **opened;
  EXPECT_EQ(file.container().minor_version(), 3);
  ASSERT_TRUE(file.model()) << file.model_status().message();
  const ModelRecord& model = *file.model();
  EXPECT_FALSE(fits_record_1(model));
  EXPECT_TRUE(check_runnable(model).ok());
  ASSERT_EQ(model.blocks.size(), 2u);
  EXPECT_EQ(model.block_kind, (std::vector<uint8_t>{0, 1}));
  for (const uint32_t l : {0u, 1u}) {
    const BlockSpec& block = model.block(l);
    EXPECT_EQ(block.window, l == 0 ? 8u : 0u);
    EXPECT_EQ(block.rope.theta, l == 0 ? 1000.0f : 20000.0f);
    EXPECT_EQ(block.rope.scaling, l == 0 ? RopeScaling::kNone : RopeScaling::kLinear);
    EXPECT_TRUE(block.norm_one_plus && block.norm_before && block.norm_after);
    EXPECT_EQ(block.qk_norm, QkNorm::kPerHead);
    EXPECT_EQ(block.activation, MlpActivation::kGeluTanh);
    EXPECT_FLOAT_EQ(block.attention_scale * block.attention_scale, 1 / 24.0f);
  }
  EXPECT_FLOAT_EQ(model.ends.embedding_scale * model.ends.embedding_scale, 32);
  EXPECT_EQ(model.tensor_name(Role::kMlpPostNorm, 1), "model.layers.1.post_feedforward_layernorm.weight");

  ASSERT_TRUE(file.tokenizer()) << file.tokenizer_status().message();
  const TokenizerRecord& tokenizer = *file.tokenizer();
  EXPECT_EQ(tokenizer.kind, TokenizerKind::kUnigram);
  EXPECT_EQ(tokenizer.tokens.size(), 96u);
  EXPECT_FALSE(tokenizer.normalizer.empty());
  EXPECT_EQ(tokenizer.after, (std::vector<uint32_t>{1}));

  ASSERT_TRUE(file.chat() && file.chat()->format) << file.chat_status().message();
  EXPECT_EQ(file.chat()->format->name, "gemma");
  EXPECT_EQ(file.chat()->format->user_prefix, "<start_of_turn>user\n");
  EXPECT_EQ(file.chat()->format->stop, (std::vector<std::string>{"<end_of_turn>"}));
}

TEST(Golden, ExpertsAreDescribed) {
  const Result<std::unique_ptr<NwcFile>> opened = open_good("experts-v1.4.nwc");
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const NwcFile& file = **opened;
  EXPECT_EQ(file.container().minor_version(), 4);
  ASSERT_TRUE(file.model()) << file.model_status().message();
  const ModelRecord& model = *file.model();
  EXPECT_TRUE(check_runnable(model).ok() && model.has_experts());
  const BlockSpec& block = model.block(1);
  EXPECT_TRUE(block.sinks && block.up_plus_one && block.mlp_bias);
  EXPECT_EQ(block.clamp, 0.75f);
  const ExpertSpec wanted{.num_experts = 2,
                          .per_token = 1,
                          .intermediate_size = 64,
                          .router = RouterKind::kTopKThenSoftmax,
                          .router_bias = true};
  EXPECT_EQ(block.experts, wanted);
  const std::string name = model.tensor_name(Role::kExpertGateUp, 1, 1);
  EXPECT_EQ(name, "model.layers.1.mlp.experts.1.gate_up_proj");
  ASSERT_TRUE(file.find(name));
  EXPECT_EQ(file.tensors()[*file.find(name)].storage, Storage::kCoded);
  EXPECT_EQ(file.tensors()[*file.find(name)].shape, (std::vector<uint64_t>{128, 32}));
  EXPECT_NE(file.tensors()[*file.find(model.tensor_name(Role::kRouter, 0))].storage, Storage::kCoded);
}

TEST(Golden, AnEncoderIsDescribed) {
  const Result<std::unique_ptr<NwcFile>> opened = open_good("encoder-v1.5.nwc");
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const NwcFile& file = **opened;
  EXPECT_EQ(file.container().minor_version(), 5);
  ASSERT_TRUE(file.model()) << file.model_status().message();
  const ModelRecord& model = *file.model();
  EXPECT_TRUE(check_runnable(model).ok() && model.is_encoder());
  EncoderSpec wanted;
  wanted.pooling = Pooling::kFirst;
  wanted.class_token = wanted.patch_bias = true;
  wanted.position_fit = PositionFit::kBicubicAntialiased;
  wanted.image_height = wanted.image_width = 16;
  wanted.patch_size = 4;
  wanted.channels = 3;
  wanted.registers = 3;
  EXPECT_EQ(model.ends.encoder, wanted);
  EXPECT_EQ(model.ends.position_rows, 37u);
  EXPECT_EQ(model.max_positions, 20u);
  EXPECT_TRUE(model.block().layer_scale && !model.block().causal);
  EXPECT_EQ(model.tensor_name(Role::kMlpScale, 2), "encoder.layer.2.layer_scale2.lambda1");
  EXPECT_NE(file.tensors()[*file.find(model.tensor_name(Role::kPatch))].storage, Storage::kCoded);
}

}  // namespace
}  // namespace nwc
