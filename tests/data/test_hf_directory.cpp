#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

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

// Zeros, but for `filled`, which has ones in its bits.
std::string file_of(const Shapes& tensors, const std::string& dtype = "F32", const std::string& filled = "") {
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
    data.resize(data.size() + size, name == filled ? '\x3f' : '\0');
  }
  return test::safetensors_bytes(header + "}", data);
}

TEST(HfConfig, HasDefaults) {
  const Result<HfConfig> result = parse(config(""));
  ASSERT_TRUE(result.ok()) << result.status().message();
  const ModelRecord& model = result->model;
  EXPECT_EQ(model.block().head_dim, 4u);
  EXPECT_EQ(model.max_positions, 2048u);
  EXPECT_EQ(model.block().rope.theta, 10000.f);
  EXPECT_FLOAT_EQ(model.block().norm_eps, 1e-6f);
  EXPECT_EQ(model.block().rope.scaling, RopeScaling::kNone);
  EXPECT_TRUE(model.tied_embeddings);
  EXPECT_TRUE(model.eos_ids.empty());
  EXPECT_FALSE(result->bos_id);
}

TEST(HfConfig, ReadsRopeScalingInAllSpellings) {
  EXPECT_EQ(parse(config(R"("rope_scaling":null)"))->model.block().rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(parse(config(R"("rope_scaling":{"rope_type":"default"})"))->model.block().rope.scaling, RopeScaling::kNone);
  const Result<HfConfig> linear = parse(config(R"("rope_scaling":{"type":"linear","factor":2})"));
  ASSERT_TRUE(linear.ok()) << linear.status().message();
  EXPECT_EQ(linear->model.block().rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(linear->model.block().rope.factor, 2.f);
  const std::string llama3 = R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
                             R"("original_max_position_embeddings":8192)";
  const Result<HfConfig> old_style = parse(config(R"("rope_theta":500000.0,"rope_scaling":{)" + llama3 + "}"));
  const Result<HfConfig> new_style = parse(config(R"("rope_parameters":{"rope_theta":500000.0,)" + llama3 + "}"));
  for (const auto& result : {old_style, new_style}) {
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_EQ(result->model.block().rope.scaling, RopeScaling::kLlama3);
    EXPECT_EQ(result->model.block().rope.theta, 500000.f);
    EXPECT_EQ(result->model.block().rope.high_freq_factor, 4.f);
    EXPECT_EQ(result->model.block().rope.original_max_positions, 8192u);
  }
  using enum StatusCode;
  const Result<HfConfig> dynamic = parse(config(R"("rope_scaling":{"type":"dynamic","factor":2})"));
  ASSERT_TRUE(dynamic.ok()) << dynamic.status().message();
  EXPECT_EQ(dynamic->model.max_positions, 4096u) << "the scaling reaches beyond the trained length";
  const Result<HfConfig> yarn = parse(config(
      R"("max_position_embeddings":4096,"rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":1024})"));
  ASSERT_TRUE(yarn.ok()) << yarn.status().message();
  EXPECT_NEAR(yarn->model.block().rope.attention_factor, 0.1 * std::log(4.0) + 1, 1e-6);
  expect_error(config(R"("rope_scaling":{"type":"longrope"})"), kCorrupt, "short_factor");
  expect_error(config(R"("rope_scaling":{"type":"longrope","short_factor":[1],"long_factor":[1]})"), kCorrupt,
               "rope_short_factors");
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
}

// Nothing that is wrong with an end token stops the weights.
TEST(HfConfig, IgnoresImpossibleEndTokensWithANote) {
  const auto expect_ignored = [](const Result<HfConfig>& result, const std::vector<uint32_t>& ids,
                                 const std::string& part) {
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_EQ(result->model.eos_ids, ids);
    const std::string why = join_notes(result->notes, NoteKind::kRepaired);
    EXPECT_NE(why.find(part), std::string::npos) << why;
  };
  expect_ignored(parse(config(R"("eos_token_id":-1)")), {}, "[-1]");
  expect_ignored(parse(config(R"("eos_token_id":[5,4])")), {4}, "[5]");
  expect_ignored(parse(config(R"("eos_token_id":"</s>")")), {}, "</s>");
  expect_ignored(parse(config(""), R"({"eos_token_id":[1,9]})"), {1}, "generation_config.json");
  expect_ignored(parse(config(R"("eos_token_id":1)"), " "), {1}, "generation_config.json");
  expect_ignored(parse(config(R"("bos_token_id":5)")), {}, "bos_token_id");

  std::string many = config(R"("eos_token_id":[0)");
  many.replace(many.find("\"vocab_size\":5"), 14, "\"vocab_size\":99");
  many.pop_back();
  for (int id = 1; id < 20; ++id) many += "," + std::to_string(id);
  const Result<HfConfig> result = parse(many + "]}");
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->model.eos_ids.size(), 16u);
  EXPECT_NE(join_notes(result->notes, NoteKind::kRepaired).find("[16,17,18,19]"), std::string::npos);
}

// Python writes NaN and Infinity, which are no JSON. Strings are left alone.
TEST(HfConfig, ReadsWhatPythonWrites) {
  const Result<HfConfig> result =
      parse(config(R"("attention_dropout":NaN,"initializer_range":-Infinity,"_name_or_path":"NaN \" Infinity")"));
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_NE(join_notes(result->notes, NoteKind::kRepaired).find("2 times"), std::string::npos);
  expect_error(config(R"("rms_norm_eps":NaN)"), StatusCode::kCorrupt, "rms_norm_eps");
  expect_error(config(R"("rope_theta":Infinity)"), StatusCode::kCorrupt, "rope_theta");
}

TEST(HfConfig, SaysWhichKeysItDoesNotKnow) {
  const Result<HfConfig> result =
      parse(config(R"("use_cache":true,"x_factor":2,"logits_scaling":1.0,"mlp_bias":null)"));
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(join_notes(result->notes, NoteKind::kGuessed),
            R"(config.json: unknown keys are taken to change nothing: ["x_factor"])");
  EXPECT_TRUE(parse(config(R"("use_cache":true,"pretraining_tp":2)"))->notes.empty());
}

TEST(HfConfig, RefusesWhatTheEngineLacks) {
  using enum StatusCode;
  expect_error(config(R"("hidden_act":"mish")"), kUnsupported, "mish");
  for (const char* key : {"logits_scaling", "attention_multiplier", "residual_multiplier", "embedding_multiplier",
                          "final_logit_softcapping", "attn_logit_softcapping", "num_local_experts", "qk_norm",
                          "rope_interleaved", "is_encoder_decoder", "no_rope_layers"}) {
    expect_error(config("\"" + std::string(key) + "\":7"), kUnsupported, std::string("\"") + key + "\" is 7");
  }
  for (const char* type : {"mrope", "proportional", "LINEAR"}) {
    expect_error(config(R"("rope_scaling":{"factor":2,"rope_type":")" + std::string(type) + "\"}"), kUnsupported, type);
  }
  expect_error(config(R"("rope_scaling":{"type":"default","mrope_section":[1,1]})"), kUnsupported, "mrope_section");
  expect_error(config(R"("rope_parameters":{"other_attention":{"rope_theta":1}})"), kUnsupported, "other_attention");
  expect_error(config(R"("rope_parameters":{"partial_rotary_factor":1.5})"), kCorrupt, "partial_rotary_factor");
  expect_error(config(R"("partial_rotary_factor":0)"), kCorrupt, "partial_rotary_factor");
  expect_error(config(R"("rope_scaling":{"type":"linear","factor":2},"rope_parameters":{"rope_theta":9})"),
               kUnsupported, "contradict");
  expect_error(config(R"("layer_types":["sliding_attention"])"), kUnsupported, "sliding_attention");
  expect_error(config(R"("layer_types":["linear_attention"])"), kUnsupported, "linear_attention");
  EXPECT_TRUE(parse(config(R"("layer_types":["full_attention"])")).ok());
  expect_error(config(R"("sliding_window":0)"), kCorrupt, "sliding_window");
  expect_error(config(R"("sliding_window":-1)"), kCorrupt, "sliding_window");
  EXPECT_TRUE(parse(config(R"("sliding_window":64,"use_sliding_window":false)")).ok());
  expect_error(config(R"("model_type":"granite")"), kUnsupported, "granite");
  for (const char* method : {"awq", "gptq", "bitsandbytes", "compressed-tensors", "fp8"}) {
    expect_error(config(R"("quantization_config":{"quant_method":")" + std::string(method) + "\"}"), kUnsupported,
                 method);
  }
  expect_error(config(R"("quantization":{"bits":4})"), kUnsupported, "quantization");
  expect_error(config(R"("quantization_config":{})"), kUnsupported, "quantization_config");
  expect_error(R"({"architectures":["BloomForCausalLM"]})", kUnsupported, "BloomForCausalLM");
  expect_error(R"({"model_type":"gemma"})", kUnsupported, "gemma");
  std::string mistral = config(R"("max_position_embeddings":8192,"sliding_window":)");
  mistral.replace(mistral.find("LlamaForCausalLM"), 16, "MistralForCausalLM");
  mistral.pop_back();
  EXPECT_TRUE(parse(mistral + "null}").ok());
  EXPECT_EQ(parse(mistral + "8192}")->model.block().window, 0u) << "no text leaves it";
  EXPECT_EQ(parse(mistral + "4096}")->model.block().window, 4096u);
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

// Whatever is wrong with a number, the message has its key and its value.
TEST(HfConfig, NamesFieldAndValue) {
  const auto family = [](const char* name) {
    std::ifstream in(NWC_SOURCE_DIR "/tests/fixtures/families/" + std::string(name) + ".json");
    return nlohmann::json::parse(in)["config"];
  };
  const std::tuple<const char*, const char*, const char*, const char*> kCases[] = {
      {"llama", "hidden_size", "-32", "\"hidden_size\" is -32"},
      {"llama", "vocab_size", "1.5", "\"vocab_size\" is 1.5"},
      {"llama", "intermediate_size", "0", "\"intermediate_size\" is 0"},
      {"llama", "num_hidden_layers", "9999999", "\"num_hidden_layers\" is 9999999"},
      {"llama", "num_key_value_heads", "3", "num_kv_heads (3) must divide num_heads (4)"},
      {"llama", "head_dim", "7", "head_dim is 7"},
      {"llama", "max_position_embeddings", "0", "max_positions is 0"},
      {"llama", "rms_norm_eps", "NaN", "\"rms_norm_eps\" is \"NaN\""},
      {"llama", "rms_norm_eps", "-0.5", "rms_norm_eps is -0.5"},
      {"llama", "hidden_act", "\"mish\"", "\"hidden_act\" is \"mish\""},
      {"mistral", "sliding_window", "0", "\"sliding_window\" is 0"},
      {"qwen2", "num_experts", "8", "\"num_experts\" is 8"},
      {"granite", "logits_scaling", "-4", "\"logits_scaling\" is -4"},
      {"granite", "attention_multiplier", "0", "\"attention_multiplier\" is 0"},
      {"granite", "residual_multiplier", "NaN", "\"residual_multiplier\" is \"NaN\""},
      {"gemma2", "query_pre_attn_scalar", "-1", "\"query_pre_attn_scalar\" is -1"},
      {"gemma2", "attn_logit_softcapping", "-50", "attention_softcap is -50"},
      {"gpt2", "n_head", "0", "\"n_head\" is 0"},
      {"gpt_neox", "layer_norm_eps", "-1", "norm_eps is -1"},
  };
  for (const auto& [name, key, value, message] : kCases) {
    nlohmann::json json = family(name);
    json[key] = "VALUE";
    std::string text = json.dump();
    text.replace(text.find("\"VALUE\""), 7, value);
    const auto result = parse(text);
    ASSERT_FALSE(result.ok()) << key << " " << value;
    EXPECT_NE(result.status().message().find(message), std::string::npos) << result.status().message();
  }
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
    const auto other_shape = open_model_source(dir.path());
    ASSERT_TRUE(other_shape.ok()) << other_shape.status().message();
    EXPECT_FALSE((*other_shape)->model());
    const std::string why = join_notes((*other_shape)->notes(), NoteKind::kModelLeftOut);
    EXPECT_NE(why.find(kTensors[i].first), std::string::npos) << why;
    tensors.erase(tensors.begin() + static_cast<ptrdiff_t>(i));
    dir.write("model.safetensors", file_of(tensors));
    const Status status = open_model_source(dir.path()).status();
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

TEST(HfDirectory, SaysThatTheWeightsHaveMoreLayersThanTheConfig) {
  const TempDir dir;
  dir.write("config.json", config(""));
  Shapes tensors = kTensors;
  for (const auto& [name, shape] : kTensors) {
    const size_t at = name.find(".0.");
    if (at == name.npos) continue;
    tensors.push_back({std::string(name).replace(at, 3, ".2."), shape});
  }
  dir.write("model.safetensors", file_of(tensors));
  const auto source = open_model_source(dir.path());
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_TRUE((*source)->model());
  EXPECT_EQ((*source)->tensors().size(), tensors.size());
  const std::string why = join_notes((*source)->notes(), NoteKind::kRepaired);
  EXPECT_NE(why.find("config.json says 1 layers, but the weights have 3 (model.layers.2."), std::string::npos) << why;

  dir.write("model.safetensors", file_of(kTensors));
  EXPECT_EQ(join_notes((*open_model_source(dir.path()))->notes(), NoteKind::kRepaired), "");
}

// A header may have a tensor without a name, and metadata that is no text.
TEST(HfDirectory, SaysWhatTheHeadersOfFilesHaveOdd) {
  const TempDir dir;
  dir.write("model.safetensors",
            test::safetensors_bytes("{\"__metadata__\":3," + test::entry("", "U8", "[4]", 0, 4) + "}", "abcd"));
  const auto source = open_model_source(dir.path());
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_EQ((*source)->tensors().size(), 1u);
  std::vector<uint8_t> bytes(4);
  ASSERT_TRUE((*source)->read_raw(0, bytes).ok());
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), "abcd");
  const std::string why = join_notes((*source)->notes(), NoteKind::kRepaired);
  EXPECT_NE(why.find("model.safetensors: __metadata__"), std::string::npos) << why;
  EXPECT_NE(why.find("model.safetensors: a tensor has an empty name"), std::string::npos) << why;
  // Notes enter the file that is made, which must not depend on where a single file lies.
  const auto alone = open_model_source(dir.path() + "/model.safetensors");
  ASSERT_TRUE(alone.ok()) << alone.status().message();
  const std::string of_file = join_notes((*alone)->notes(), NoteKind::kRepaired);
  EXPECT_NE(of_file.find("a tensor has an empty name"), std::string::npos) << of_file;
  EXPECT_EQ(of_file.find(dir.path()), std::string::npos) << of_file;
}

// What config.json ties is left out where it is the same, and used where it is not.
TEST(HfDirectory, TakesATrainedHeadForWhatItIs) {
  const TempDir dir;
  dir.write("config.json", config(""));
  Shapes tensors = kTensors;
  tensors.insert(tensors.begin() + 3, {"lm_head.weight", {5, 8}});
  dir.write("model.safetensors", file_of(tensors, "BF16"));
  const auto tied = open_model_source(dir.path());
  ASSERT_TRUE(tied.ok()) << tied.status().message();
  EXPECT_FALSE((*tied)->find("lm_head.weight"));
  EXPECT_EQ(join_notes((*tied)->notes(), NoteKind::kTensorsLeftOut), "");
  ASSERT_TRUE((*tied)->model());
  EXPECT_TRUE((*tied)->model()->tied_embeddings);
  EXPECT_EQ((*tied)->tensors().size(), kTensors.size());
  for (size_t i = 0; i < kTensors.size(); ++i) EXPECT_TRUE((*tied)->read_f32(i).ok());

  dir.write("model.safetensors", file_of(tensors, "BF16", "lm_head.weight"));
  const auto trained = open_model_source(dir.path());
  ASSERT_TRUE(trained.ok()) << trained.status().message();
  const std::optional<size_t> head = (*trained)->find("lm_head.weight");
  ASSERT_TRUE(head);
  EXPECT_GT((*trained)->read_f32(*head)->front(), 0);
  ASSERT_TRUE((*trained)->model());
  EXPECT_FALSE((*trained)->model()->tied_embeddings);
  EXPECT_NE(join_notes((*trained)->notes(), NoteKind::kRepaired).find("lm_head.weight"), std::string::npos);

  // Of two names for one tensor some writers keep the head's.
  tensors.erase(tensors.begin());
  dir.write("model.safetensors", file_of(tensors, "BF16", "lm_head.weight"));
  const auto head_only = open_model_source(dir.path());
  ASSERT_TRUE(head_only.ok()) << head_only.status().message();
  ASSERT_TRUE((*head_only)->model());
  EXPECT_TRUE((*head_only)->model()->tied_embeddings);
  EXPECT_TRUE((*head_only)->find("model.embed_tokens.weight"));
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
  const auto notes_after = [&](NoteKind kind) {
    const auto source = open_model_source(dir.path());
    EXPECT_TRUE(source.ok()) << source.status().message();
    EXPECT_TRUE(source.ok() && (*source)->model());
    EXPECT_TRUE(source.ok() && (*source)->tensors().size() == kTensors.size());
    return source.ok() ? join_notes((*source)->notes(), kind) : "";
  };
  EXPECT_TRUE(index("", "").ok()) << index("", "").message();
  EXPECT_EQ(notes_after(NoteKind::kTensorsLeftOut), "");
  // The index decides, and where it is wrong the tensor is taken from where it is.
  EXPECT_TRUE(index("\"one.safetensors\"", "\"two.safetensors\"").ok());
  EXPECT_NE(notes_after(NoteKind::kRepaired).find("model.embed_tokens.weight"), std::string::npos);
  EXPECT_TRUE(index("\"model.embed_tokens.weight\"", "\"x\":\"one.safetensors\",\"model.embed_tokens.weight\"").ok());
  EXPECT_NE(notes_after(NoteKind::kTensorsLeftOut).find("\"x\""), std::string::npos);
  EXPECT_NE(index("\"one.safetensors\"", "\"three.safetensors\"").message().find("three.safetensors is missing"),
            std::string::npos);
  // A tensor that the model needs and the index does not list.
  EXPECT_FALSE(index("\"model.embed_tokens.weight\":\"one.safetensors\",", "").ok());
  // No index at all: every file is read.
  EXPECT_TRUE(index("\"one.safetensors\"", "7").ok());
  EXPECT_NE(notes_after(NoteKind::kRepaired).find("has no file name"), std::string::npos);
  for (const char* outside : {"\"../one.safetensors\"", "\"/etc/passwd\"", "\"..\"", "\"\"", "\"a/../../b\"",
                              "\"a/..\"", "\"a/\"", "\".\"", "\"a\\\\b\""}) {
    const Status status = index("\"one.safetensors\"", outside);
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << outside;
    EXPECT_NE(status.message().find("outside the directory"), std::string::npos) << status.message();
  }
  std::filesystem::remove(dir.file("model.safetensors.index.json"));
  dir.write("two.safetensors", file_of(kTensors));
  EXPECT_NE(open_model_source(dir.path()).status().message().find("in another file too"), std::string::npos);
}

TEST(HfDirectory, TheIndexDecides) {
  const TempDir dir;
  dir.write("config.json", config(""));
  std::filesystem::create_directory(dir.file("sub"));
  const Shapes first(kTensors.begin(), kTensors.begin() + 4);
  Shapes second(kTensors.begin() + 4, kTensors.end());
  std::string map;
  for (const auto& [name, shape] : first) map += "\"" + name + "\":\"sub/one.safetensors\",";
  for (const auto& [name, shape] : second) map += "\"" + name + "\":\"two.safetensors\",";
  map.pop_back();
  dir.write("model.safetensors.index.json", R"({"weight_map":{)" + map + "}}");
  dir.write("sub/one.safetensors", file_of(first));
  // An old copy, filled with another value, and a tensor that is not listed.
  second.push_back({"model.embed_tokens.weight", {5, 8}});
  second.push_back({"extra", {3}});
  dir.write("two.safetensors", file_of(second, "F32", "model.embed_tokens.weight"));
  dir.write("other.safetensors", file_of({{"y", {1}}}));
  const auto source = open_model_source(dir.path());
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_EQ((*source)->tensors().size(), kTensors.size());
  EXPECT_EQ((*source)->read_f32(*(*source)->find("model.embed_tokens.weight"))->front(), 0);
  const std::string why = join_notes((*source)->notes(), NoteKind::kTensorsLeftOut);
  for (const char* part : {"extra", "model.embed_tokens.weight", "other.safetensors"}) {
    EXPECT_NE(why.find(part), std::string::npos) << why;
  }
}

TEST(HfDirectory, AMissingShardIsAnError) {
  const TempDir dir;
  dir.write("model-00001-of-00002.safetensors", file_of(kTensors));
  const Status status = open_model_source(dir.path()).status();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_NE(status.message().find("model-00002-of-00002.safetensors is missing"), std::string::npos)
      << status.message();
  dir.write("model-00002-of-00002.safetensors", file_of({{"x", {1}}}));
  EXPECT_TRUE(open_model_source(dir.path()).ok());
  std::filesystem::rename(dir.file("model-00002-of-00002.safetensors"), dir.file("model-00000-of-00002.safetensors"));
  EXPECT_TRUE(open_model_source(dir.path()).ok()) << "counted from zero";
}

// 1 and 2 in E4M3, times the scale of their block of 2 x 2.
TEST(HfDirectory, MultipliesOutFp8WithScalesOfBlocks) {
  const TempDir dir;
  const float scales[4] = {0.5f, 3, -1, 8};
  std::string data = "\x38\x40\x38\x40\x38\x38\x40\x40\x38\x40\x40\x38";  // [3][4]
  data.append(reinterpret_cast<const char*>(scales), sizeof scales);
  const std::string header = "{" + test::entry("a.weight", "F8_E4M3", "[3,4]", 0, 12) + "," +
                             test::entry("a.weight_scale_inv", "F32", "[2,2]", 12, 28) + "}";
  dir.write("model.safetensors", test::safetensors_bytes(header, data));
  const auto quantized = [&](const std::string& block_size) {
    dir.write("config.json",
              R"({"quantization_config":{"quant_method":"fp8","weight_block_size":)" + block_size + "}}");
    return open_model_source(dir.path());
  };
  const auto source = quantized("[2,2]");
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_EQ((*source)->tensors().size(), 1u);
  EXPECT_EQ((*source)->tensors()[0].dtype, Dtype::kF32);
  EXPECT_EQ((*source)->tensors()[0].stored_type, "F8_E4M3");
  EXPECT_EQ((*source)->stored_bytes(), 28u);
  const auto values = (*source)->read_f32(0);
  ASSERT_TRUE(values.ok()) << values.status().message();
  EXPECT_EQ(*values, (std::vector<float>{0.5f, 1, 3, 6, 0.5f, 0.5f, 6, 6, -1, -2, 16, 8}));
  EXPECT_NE(join_notes((*source)->notes(), NoteKind::kRepaired).find("1 tensors"), std::string::npos);

  // Scales that do not fit leave everything as it is stored, and no model that would take it for weights.
  for (const char* other : {"[1,2]", "[128,128]", "[0,2]", "[2]", "7", "null"}) {
    const auto stored = quantized(other);
    ASSERT_TRUE(stored.ok()) << other;
    EXPECT_EQ((*stored)->tensors().size(), 2u) << other;
    EXPECT_EQ((*stored)->tensors()[0].dtype, Dtype::kF8E4M3) << other;
    EXPECT_NE(join_notes((*stored)->notes(), NoteKind::kModelLeftOut), "") << other;
  }
}

// Whatever stands beside the weights, the weights open.
TEST(HfDirectory, DamagedSideFilesAreNotes) {
  const TempDir dir;
  dir.write("model.safetensors", file_of(kTensors));
  const auto reason = [&](NoteKind kind) {
    const auto source = open_model_source(dir.path());
    EXPECT_TRUE(source.ok()) << source.status().message();
    EXPECT_TRUE(source.ok() && (*source)->tensors().size() == kTensors.size());
    return source.ok() ? join_notes((*source)->notes(), kind) : "";
  };
  for (const char* damaged : {"", "{", "[]", "{\"a\":1,\"a\":2}", "\xff", "{\"architectures\":7}"}) {
    dir.write("config.json", damaged);
    EXPECT_NE(reason(NoteKind::kModelLeftOut).find("config.json"), std::string::npos) << damaged;
  }
  dir.write("config.json", config(""));
  EXPECT_EQ(reason(NoteKind::kModelLeftOut), "");
  for (const char* damaged : {"", "{", "[]", "{}", R"({"model":{"type":"WordPiece"}})"}) {
    dir.write("tokenizer.json", damaged);
    EXPECT_NE(reason(NoteKind::kTokenizerLeftOut).find("tokenizer.json"), std::string::npos) << damaged;
  }
  EXPECT_NE(reason(NoteKind::kTokenizerLeftOut).find("WordPiece"), std::string::npos);
  std::filesystem::remove(dir.file("tokenizer.json"));
  dir.write("tokenizer.model", "x");
  EXPECT_NE(reason(NoteKind::kTokenizerLeftOut).find("tokenizer.model"), std::string::npos);
  dir.write("generation_config.json", "");
  EXPECT_NE(reason(NoteKind::kRepaired).find("generation_config.json"), std::string::npos);
}

}  // namespace
}  // namespace nwc
