#include <gtest/gtest.h>

#include "tests/data/safetensors_bytes.h"
#include "tests/data/temp_dir.h"
#include "trainer/data/hf_config.h"
#include "trainer/data/hf_directory.h"

namespace nwc {
namespace {

using test::TempDir;

const std::string kConfig =
    R"("architectures":["LlamaForCausalLM"],"vocab_size":5,"hidden_size":8,"intermediate_size":12,)"
    R"("num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"tie_word_embeddings":true)";

std::string config(const std::string& more) {
  std::string text = "{" + kConfig;
  if (!more.empty()) text.append(",").append(more);
  return text + "}";
}

Result<HfConfig> parse(const std::string& text, const std::string& generation = "") {
  const Bytes generation_bytes(reinterpret_cast<const uint8_t*>(generation.data()), generation.size());
  return parse_hf_config({reinterpret_cast<const uint8_t*>(text.data()), text.size()},
                         generation.empty() ? nullptr : &generation_bytes);
}

void expect_error(const std::string& text, StatusCode code, const std::string& part) {
  const Result<HfConfig> result = parse(text);
  ASSERT_FALSE(result.ok()) << text;
  EXPECT_EQ(result.status().code(), code) << result.status().message();
  EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
}

using Shapes = std::vector<std::pair<std::string, std::vector<uint64_t>>>;

const Shapes kTensors = {{"model.embed_tokens.weight", {5, 8}},
                         {"model.layers.0.input_layernorm.weight", {8}},
                         {"model.layers.0.self_attn.q_proj.weight", {8, 8}},
                         {"model.layers.0.self_attn.k_proj.weight", {4, 8}},
                         {"model.layers.0.self_attn.v_proj.weight", {4, 8}},
                         {"model.layers.0.self_attn.o_proj.weight", {8, 8}},
                         {"model.layers.0.post_attention_layernorm.weight", {8}},
                         {"model.layers.0.mlp.gate_proj.weight", {12, 8}},
                         {"model.layers.0.mlp.up_proj.weight", {12, 8}},
                         {"model.layers.0.mlp.down_proj.weight", {8, 12}},
                         {"model.norm.weight", {8}}};

std::string file_of(const Shapes& tensors, const std::string& dtype = "F32") {
  const uint64_t element_bytes = dtype == "F32" || dtype == "I32" ? 4 : 2;
  std::string header = "{", data;
  for (const auto& [name, shape] : tensors) {
    uint64_t size = element_bytes;
    std::string dims;
    for (uint64_t dim : shape) {
      size *= dim;
      if (!dims.empty()) dims += ",";
      dims += std::to_string(dim);
    }
    if (header.size() > 1) header += ",";
    header += test::entry(name, dtype, "[" + dims + "]", data.size(), data.size() + size);
    data.resize(data.size() + size, '\0');
  }
  return test::safetensors_bytes(header + "}", data);
}

TEST(HfConfig, HasDefaults) {
  const Result<HfConfig> result = parse(config(""));
  ASSERT_TRUE(result.ok()) << result.status().message();
  const ModelRecord& model = result->model;
  EXPECT_EQ(model.head_dim, 4u);
  EXPECT_EQ(model.max_positions, 2048u);
  EXPECT_EQ(model.rope_theta, 10000.f);
  EXPECT_FLOAT_EQ(model.rms_norm_eps, 1e-6f);
  EXPECT_EQ(model.rope_scaling, RopeScaling::kNone);
  EXPECT_TRUE(model.tied_embeddings);
  EXPECT_TRUE(model.eos_ids.empty());
  EXPECT_FALSE(result->bos_id);
}

TEST(HfConfig, ReadsRopeScalingInAllSpellings) {
  EXPECT_EQ(parse(config(R"("rope_scaling":null)"))->model.rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(parse(config(R"("rope_scaling":{"rope_type":"default"})"))->model.rope_scaling, RopeScaling::kNone);
  const Result<HfConfig> linear = parse(config(R"("rope_scaling":{"type":"linear","factor":2})"));
  ASSERT_TRUE(linear.ok()) << linear.status().message();
  EXPECT_EQ(linear->model.rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(linear->model.rope_factor, 2.f);
  const std::string llama3 = R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
                             R"("original_max_position_embeddings":8192)";
  const Result<HfConfig> old_style = parse(config(R"("rope_theta":500000.0,"rope_scaling":{)" + llama3 + "}"));
  const Result<HfConfig> new_style = parse(config(R"("rope_parameters":{"rope_theta":500000.0,)" + llama3 + "}"));
  for (const auto& result : {old_style, new_style}) {
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_EQ(result->model.rope_scaling, RopeScaling::kLlama3);
    EXPECT_EQ(result->model.rope_theta, 500000.f);
    EXPECT_EQ(result->model.rope_high_freq_factor, 4.f);
    EXPECT_EQ(result->model.rope_original_max_positions, 8192u);
  }
  using enum StatusCode;
  expect_error(config(R"("rope_scaling":{"type":"dynamic","factor":2})"), kUnsupported, "dynamic");
  expect_error(config(R"("rope_scaling":{"type":"linear"})"), kCorrupt, "factor");
  expect_error(config(R"("rope_scaling":{"type":"llama3","factor":2})"), kCorrupt, "llama3 needs");
  expect_error(config(R"("rope_scaling":7)"), kCorrupt, "object");
}

TEST(HfConfig, CollectsEndTokens) {
  EXPECT_EQ(parse(config(R"("eos_token_id":3)"))->model.eos_ids, std::vector<uint32_t>{3});
  EXPECT_EQ(parse(config(R"("eos_token_id":[3,4])"))->model.eos_ids, (std::vector<uint32_t>{3, 4}));
  EXPECT_EQ(parse(config(R"("eos_token_id":3)"), R"({"eos_token_id":[2,3]})")->model.eos_ids,
            (std::vector<uint32_t>{3, 2}));
  EXPECT_EQ(parse(config(R"("bos_token_id":1)"))->bos_id, 1u);
  expect_error(config(R"("eos_token_id":5)"), StatusCode::kCorrupt, "eos_token_id");
  expect_error(config(R"("eos_token_id":"</s>")"), StatusCode::kCorrupt, "eos_token_id");
  EXPECT_FALSE(parse(config(""), R"({"eos_token_id":9})").ok());
}

TEST(HfConfig, RefusesWhatTheEngineLacks) {
  using enum StatusCode;
  expect_error(config(R"("attention_bias":true)"), kUnsupported, "attention_bias");
  expect_error(config(R"("mlp_bias":true)"), kUnsupported, "mlp_bias");
  expect_error(config(R"("hidden_act":"gelu")"), kUnsupported, "gelu");
  expect_error(config(R"("partial_rotary_factor":0.5)"), kUnsupported, "partial_rotary_factor");
  expect_error(config(R"("quantization_config":{})"), kUnsupported, "quantization_config");
  expect_error(R"({"architectures":["GPT2LMHeadModel"]})", kUnsupported, "GPT2LMHeadModel");
  expect_error(R"({"model_type":"gemma"})", kUnsupported, "gemma");
  std::string mistral = config(R"("max_position_embeddings":8192,"sliding_window":)");
  mistral.replace(mistral.find("LlamaForCausalLM"), 16, "MistralForCausalLM");
  mistral.pop_back();
  EXPECT_TRUE(parse(mistral + "null}").ok());
  EXPECT_TRUE(parse(mistral + "8192}").ok());
  expect_error(mistral + "4096}", kUnsupported, "sliding_window");
}

TEST(HfConfig, RejectsImpossibleValues) {
  using enum StatusCode;
  expect_error("[]", kCorrupt, "object");
  expect_error(R"({"architectures":["LlamaForCausalLM"]})", kCorrupt, "vocab_size");
  expect_error(config(R"("head_dim":"4")"), kCorrupt, "head_dim");
  expect_error(config(R"("head_dim":3)"), kCorrupt, "config.json");
  expect_error(config(R"("rms_norm_eps":0)"), kCorrupt, "config.json");
  expect_error(config(R"("rms_norm_eps":1e39)"), kCorrupt, "rms_norm_eps");
  expect_error(config(R"("rope_theta":-1)"), kCorrupt, "config.json");
  expect_error(config(R"("max_position_embeddings":4294967296)"), kCorrupt, "max_position_embeddings");
  expect_error(config(R"("vocab_size":6)"), kCorrupt, "twice");
}

TEST(HfDirectory, OpensTheIncludedModel) {
  const auto source = open_model_source(NWC_SOURCE_DIR "/models/gutenlm-2.6m");
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_TRUE((*source)->notes().empty());
  EXPECT_EQ((*source)->tensors().size(), 56u);
  ASSERT_TRUE((*source)->model());
  EXPECT_EQ((*source)->model()->num_layers, 6u);
  EXPECT_EQ((*source)->model()->eos_ids, std::vector<uint32_t>{0});
  ASSERT_TRUE((*source)->tokenizer());
  uint64_t elements = 0;
  for (size_t i = 0; i < (*source)->tensors().size(); ++i) {
    EXPECT_EQ((*source)->tensors()[i].stored_type, "BF16");
    const auto values = (*source)->read_f32(i);
    ASSERT_TRUE(values.ok()) << values.status().message();
    elements += values->size();
  }
  EXPECT_EQ((*source)->stored_bytes(), 2 * elements);
}

TEST(HfDirectory, OpensWithoutTokenizerAndWithoutConfig) {
  const TempDir dir;
  dir.write("model.safetensors", file_of(kTensors));
  const auto bare = open_model_source(dir.path());
  ASSERT_TRUE(bare.ok()) << bare.status().message();
  EXPECT_FALSE((*bare)->model());
  dir.write("config.json", config(""));
  const auto source = open_model_source(dir.path());
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_TRUE((*source)->model());
  EXPECT_FALSE((*source)->tokenizer());
  EXPECT_EQ(join_notes((*source)->notes(), NoteKind::kTokenizerLeftOut), "there is no tokenizer.json");
  dir.write("config.json", R"({"architectures":["Other"]})");
  const auto other = open_model_source(dir.path());
  ASSERT_TRUE(other.ok()) << other.status().message();
  EXPECT_FALSE((*other)->model());
  EXPECT_NE(join_notes((*other)->notes(), NoteKind::kModelLeftOut).find("Other"), std::string::npos);
}

TEST(HfDirectory, ChecksTensorsAgainstTheConfig) {
  const TempDir dir;
  dir.write("config.json", config(""));
  for (size_t i = 0; i < kTensors.size(); ++i) {
    Shapes tensors = kTensors;
    tensors[i].second[0] += 1;
    dir.write("model.safetensors", file_of(tensors));
    Status status = open_model_source(dir.path()).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << kTensors[i].first;
    EXPECT_NE(status.message().find(kTensors[i].first), std::string::npos) << status.message();
    tensors.erase(tensors.begin() + static_cast<ptrdiff_t>(i));
    dir.write("model.safetensors", file_of(tensors));
    status = open_model_source(dir.path()).status();
    EXPECT_NE(status.message().find("is missing"), std::string::npos) << status.message();
  }
  // Fewer layers than the configuration says, however many it says.
  dir.write("model.safetensors", file_of(kTensors));
  std::string layers = config("");
  layers.replace(layers.find("\"num_hidden_layers\":1"), 21, "\"num_hidden_layers\":4096");
  dir.write("config.json", layers);
  EXPECT_NE(open_model_source(dir.path()).status().message().find("model.layers.1."), std::string::npos);

  dir.write("config.json", config(""));
  Shapes biased = kTensors;
  biased.push_back({"model.layers.0.self_attn.q_proj.bias", {8}});
  dir.write("model.safetensors", file_of(biased));
  const auto with_bias = open_model_source(dir.path());
  ASSERT_TRUE(with_bias.ok());
  EXPECT_FALSE((*with_bias)->model());
  dir.write("model.safetensors", file_of(kTensors, "I32"));
  const auto integers = open_model_source(dir.path());
  ASSERT_TRUE(integers.ok());
  EXPECT_FALSE((*integers)->model());
}

TEST(HfDirectory, LeavesOutATiedHead) {
  const TempDir dir;
  dir.write("config.json", config(""));
  Shapes tensors = kTensors;
  tensors.insert(tensors.begin() + 3, {"lm_head.weight", {5, 8}});
  dir.write("model.safetensors", file_of(tensors, "BF16"));
  const auto source = open_model_source(dir.path());
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_FALSE((*source)->find("lm_head.weight"));
  EXPECT_NE(join_notes((*source)->notes(), NoteKind::kTensorsLeftOut).find("lm_head.weight"), std::string::npos);
  EXPECT_EQ((*source)->tensors().size(), kTensors.size());
  for (size_t i = 0; i < kTensors.size(); ++i) EXPECT_TRUE((*source)->read_f32(i).ok());
}

TEST(HfDirectory, ReadsShards) {
  const TempDir dir;
  dir.write("config.json", config(""));
  const Shapes first(kTensors.begin(), kTensors.begin() + 4), second(kTensors.begin() + 4, kTensors.end());
  dir.write("one.safetensors", file_of(first));
  dir.write("two.safetensors", file_of(second));
  const auto unindexed = open_model_source(dir.path());
  ASSERT_TRUE(unindexed.ok()) << unindexed.status().message();

  const auto index = [&](const std::string& change, const std::string& to) {
    std::string map;
    for (const auto& [name, shape] : first) map += "\"" + name + "\":\"one.safetensors\",";
    for (const auto& [name, shape] : second) map += "\"" + name + "\":\"two.safetensors\",";
    map.pop_back();
    if (!change.empty()) map.replace(map.find(change), change.size(), to);
    dir.write("model.safetensors.index.json", R"({"metadata":{"total_size":1},"weight_map":{)" + map + "}}");
    return open_model_source(dir.path()).status();
  };
  EXPECT_TRUE(index("", "").ok()) << index("", "").message();
  EXPECT_FALSE(index("\"one.safetensors\"", "\"two.safetensors\"").ok());
  EXPECT_FALSE(index("\"one.safetensors\"", "\"three.safetensors\"").ok());
  EXPECT_FALSE(index("\"one.safetensors\"", "7").ok());
  EXPECT_FALSE(index("\"model.embed_tokens.weight\":\"one.safetensors\",", "").ok());
  EXPECT_FALSE(index("\"model.embed_tokens.weight\"", "\"x\":\"one.safetensors\",\"model.embed_tokens.weight\"").ok());
  for (const char* outside : {"\"../one.safetensors\"", "\"/etc/passwd\"", "\"..\"", "\"\"", "\"a/b\""}) {
    const Status status = index("\"one.safetensors\"", outside);
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << outside;
    EXPECT_NE(status.message().find("outside the directory"), std::string::npos) << status.message();
  }
  std::filesystem::remove(dir.file("model.safetensors.index.json"));
  dir.write("two.safetensors", file_of(kTensors));
  EXPECT_NE(open_model_source(dir.path()).status().message().find("in another file too"), std::string::npos);
}

TEST(HfDirectory, DamagedConfigIsAnError) {
  const TempDir dir;
  dir.write("model.safetensors", file_of(kTensors));
  dir.write("config.json", "{");
  EXPECT_EQ(open_model_source(dir.path()).status().code(), StatusCode::kCorrupt);
  dir.write("config.json", config(""));
  dir.write("tokenizer.json", "{");
  EXPECT_EQ(open_model_source(dir.path()).status().code(), StatusCode::kCorrupt);
  dir.write("tokenizer.json", R"({"model":{"type":"WordPiece"}})");
  const auto source = open_model_source(dir.path());
  ASSERT_TRUE(source.ok());
  EXPECT_TRUE((*source)->model());
  EXPECT_NE(join_notes((*source)->notes(), NoteKind::kTokenizerLeftOut).find("WordPiece"), std::string::npos);
}

}  // namespace
}  // namespace nwc
