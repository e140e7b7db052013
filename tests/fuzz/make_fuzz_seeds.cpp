// Writes the seeds that are made, not written by hand: make_fuzz_seeds FOLDER makes FOLDER/HARNESS/... for every
// harness that reads a binary format. Same program, same bytes.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/data/gguf_builder.h"
#include "tests/data/safetensors_bytes.h"
#include "tests/encode/synthetic_codec.h"
#include "tests/fuzz/small_model.h"
#include "trainer/calib/calibration_files.h"
#include "trainer/data/hf_tokenizer.h"
#include "trainer/data/source_record.h"
#include "trainer/nn/random.h"
#include "trainer/train/checkpoint.h"

using namespace nwc;

namespace {

std::filesystem::path root;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "make_fuzz_seeds: %s\n", what.c_str());
  std::exit(1);
}
void check(const Status& status) {
  if (!status.ok()) die(status.message());
}

std::string seed_path(const std::string& harness, const std::string& name) {
  std::filesystem::create_directories(root / harness);
  return (root / harness / name).string();
}

void write_seed(const std::string& harness, const std::string& name, std::string_view bytes) {
  std::ofstream out(seed_path(harness, name), std::ios::binary);
  if (!out.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush()) die("cannot write " + name);
}
void write_seed(const std::string& harness, const std::string& name, const std::vector<uint8_t>& bytes) {
  write_seed(harness, name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void make_models() {
  struct Kind {
    const char* name;
    reference::CodecOptions codec;
  };
  const reference::CodecOptions small = {.levels = 3, .tables = 5, .alphabet = 16};
  Kind kinds[] = {{"linear", small}, {"network", small}, {"norm", small}, {"trellis", small}, {"classes", small}};
  kinds[0].codec.max_raw_bits = 2;
  kinds[1].codec.width = 16, kinds[1].codec.blocks = 1, kinds[1].codec.activation = Activation::kRelu;
  kinds[2].codec.width = 16, kinds[2].codec.blocks = 2, kinds[2].codec.activation = Activation::kSilu;
  kinds[2].codec.layer_norm = true, kinds[2].codec.f16 = true;
  kinds[3].codec.trellis_bits = 3, kinds[3].codec.varied = false;
  kinds[4].codec.trellis_bits = 8, kinds[4].codec.row_classes = true, kinds[4].codec.levels = 20;
  for (size_t i = 0; i < std::size(kinds); ++i) {
    fuzz::SmallModelOptions options;
    options.codec = kinds[i].codec;
    options.seed = static_cast<uint32_t>(i);
    options.tied = i % 2 == 0;
    options.row_scales = i % 3 == 1;
    options.norms = i == 1 ? Dtype::kF16 : i == 2 ? Dtype::kBf16 : Dtype::kF32;
    write_seed("fuzz_model", std::string(kinds[i].name) + ".nwc", make_small_model(options));
    options.tokenizer = true;
    if (i < 2) write_seed("fuzz_open", std::string(kinds[i].name) + ".nwc", make_small_model(options));
  }
}

// Records of format 1.3: a MODEL record of version 2, TOKENIZER records of version 2 of each kind, and the three forms
// of a CHAT section.
void make_described_models() {
  fuzz::SmallModelOptions options;
  options.codec = {.levels = 3, .tables = 5, .alphabet = 16};
  options.described = options.tokenizer = true;
  for (const char* name : {"unigram", "word_piece", "nfkc", "added_options", "unfused"}) {
    const std::string json = read_file(NWC_SOURCE_DIR "/tests/fixtures/tokenizer/" + std::string(name) + ".json");
    SourceNotes notes;
    const Result<TokenizerRecord> record =
        parse_hf_tokenizer({reinterpret_cast<const uint8_t*>(json.data()), json.size()}, {}, &notes);
    check(record.status());
    options.tokenizer_section = serialize(*record);
    ++options.seed;  // the next form of CHAT
    write_seed("fuzz_open", "described_" + std::string(name) + ".nwc", make_small_model(options));
  }
  options.tokenizer_section.clear();
  write_seed("fuzz_decompress", "described.nwc", make_small_model(options));
}

// A model of one layer with its tokenizer; the architecture is Llama's or another with its tensors.
std::string llama_gguf(const std::string& architecture = "llama") {
  nwc::test::GgufBuilder model;
  const std::string p = architecture + ".";
  model.string("general.architecture", architecture).u32(p + "block_count", 1).u32(p + "context_length", 64);
  model.u32(p + "embedding_length", 16).u32(p + "feed_forward_length", 32).u32(p + "attention.head_count", 2);
  model.u32(p + "attention.head_count_kv", 1).f32(p + "attention.layer_norm_rms_epsilon", 1e-5f);
  if (architecture != "llama") {
    model.u32(p + "attention.sliding_window", 8).f32(p + "logit_scale", 4).f32(p + "attention.temperature_scale", 0.1f);
    model.string(p + "rope.scaling.type", "yarn").f32(p + "rope.scaling.factor", 4);
    model.u32(p + "rope.scaling.original_context_length", 16);
  }
  model.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a", "b"});
  model.floats("tokenizer.ggml.scores", {0, 0, 0, -1, -2}).integers("tokenizer.ggml.token_type", {2, 3, 3, 1, 1});
  model.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  model.f32_tensor("token_embd.weight", {16, 5}).f32_tensor("output_norm.weight", {16});
  for (const auto& [name, dims] : std::vector<std::pair<std::string, std::vector<uint64_t>>>{{"attn_norm", {16}},
                                                                                             {"ffn_norm", {16}},
                                                                                             {"attn_q", {16, 16}},
                                                                                             {"attn_k", {16, 8}},
                                                                                             {"attn_v", {16, 8}},
                                                                                             {"attn_output", {16, 16}},
                                                                                             {"ffn_gate", {16, 32}},
                                                                                             {"ffn_up", {16, 32}},
                                                                                             {"ffn_down", {32, 16}}})
    model.f32_tensor("blk.0." + name + ".weight", dims, 0.25f);
  return model.build();
}

void make_kept_sources() {
  fuzz::SmallModelOptions options;
  options.codec = {.levels = 3, .tables = 5, .alphabet = 16};
  options.tokenizer = true;
  const auto bytes = [](const std::string& text) { return std::vector<uint8_t>(text.begin(), text.end()); };
  SourceRecord source;
  for (const auto& [name, text] : std::vector<std::pair<std::string, std::string>>{
           {"config.json", R"({"architectures":["LlamaForCausalLM"],"torch_dtype":"float32","vocab_size":32})"},
           {"generation_config.json", R"({"eos_token_id":3})"},
           {"tokenizer_config.json", R"({"chat_template":"{{ messages }}","eos_token":"</s>"})"}})
    source.files.push_back({name, bytes(text)});
  options.source = serialize(source);
  write_seed("fuzz_decompress", "hugging_face.nwc", make_small_model(options));

  const std::string gguf = llama_gguf();
  source.kind = SourceKind::kGguf;
  source.files = {{"model.gguf", bytes(gguf)}};
  options.source = serialize(source);
  write_seed("fuzz_decompress", "gguf.nwc", make_small_model(options));
  options.source.clear();
  write_seed("fuzz_decompress", "none.nwc", make_small_model(options));

  // Bare tensors, one of them empty.
  const CodecRecord codec = reference::make_codec(options.codec, 1);
  std::vector<reference::TestTensor> tensors;
  tensors.push_back(reference::make_raw_tensor("bytes", {1, 2, 3, 4}, false));
  tensors.push_back(reference::make_raw_tensor("none", {}, false));
  write_seed("fuzz_decompress", "bare.nwc", reference::make_file(codec, &tensors));
}

void make_codecs() {
  CodecModel codec = nwc::testing::synthetic_codec(4);
  codec.entropy.matrix.assign(kChunk * 24, 0.1f);
  codec.entropy.bias.assign(kChunk * 10, 0.1f);
  codec.entropy.factor.assign(kChunk * 9, 0.1f);
  for (uint32_t i = 0; i < kChunk; ++i) codec.entropy.quantiles.insert(codec.entropy.quantiles.end(), {-4, 0, 4});
  codec.provenance = {{"encoder", "seed"}};
  check(save_codec(codec, seed_path("fuzz_codec", "linear.nwcc")));
}

void make_checkpoints() {
  for (const Preset preset : {Preset::kLinear, Preset::kSmall}) {
    TrainState state;
    state.options = preset_options(preset);
    if (preset == Preset::kSmall) state.options.width = 16, state.options.blocks = 1;
    state.options.num_levels = 2;
    state.options.data.sources = {"model"};
    state.step = 3;
    const CodecLayout layout(state.options.shape());
    state.parameters.shape = layout.shape;
    state.parameters.preset = preset;
    state.parameters.lambda = level_lambdas(state.options);
    state.parameters.flat.assign(layout.total, 0.01f);
    for (uint32_t i = 0; i < kChunk; ++i)
      state.parameters.quantiles.insert(state.parameters.quantiles.end(), {-4, 0, 4});
    state.main.mean.assign(layout.total, 0.0f);
    state.main.variance.assign(layout.total, 0.0f);
    state.auxiliary.mean.assign(state.parameters.quantiles.size(), 0.0f);
    state.auxiliary.variance.assign(state.parameters.quantiles.size(), 0.0f);
    CodecModel codec = make_codec(state.parameters);
    freeze_from_density(&codec);
    const char* name = preset == Preset::kLinear ? "linear.nwck" : "small.nwck";
    check(save_checkpoint(state, codec, seed_path("fuzz_checkpoint", name)));
  }
}

void make_safetensors() {
  using nwc::test::entry;
  using nwc::test::safetensors_bytes;
  write_seed("fuzz_safetensors", "types",
             safetensors_bytes("{" + entry("a", "F32", "[2,3]", 0, 24) + "," + entry("b", "BF16", "[4]", 24, 32) + "," +
                                   entry("c", "F16", "[]", 32, 34) + "," + entry("d", "I64", "[0]", 34, 34) + "," +
                                   entry("e", "F8_E4M3", "[2]", 34, 36) + R"(,"__metadata__":{"format":"pt"}})",
                               std::string(36, '\x3c')));
  write_seed("fuzz_safetensors", "empty", safetensors_bytes("{}", ""));
}

void make_ggufs() {
  using nwc::test::GgufBuilder;
  write_seed("fuzz_gguf", "llama.gguf", llama_gguf());
  for (const char* architecture : {"granite", "mistral3", "smollm3"})
    write_seed("fuzz_gguf", std::string(architecture) + ".gguf", llama_gguf(architecture));

  GgufBuilder gpt2;
  gpt2.string("general.architecture", "other").string("tokenizer.ggml.model", "gpt2");
  gpt2.string("tokenizer.ggml.pre", "llama-bpe").strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<s>"});
  gpt2.strings("tokenizer.ggml.merges", {"a b"}).integers("tokenizer.ggml.token_type", {1, 1, 1, 3});
  gpt2.boolean("tokenizer.ggml.add_bos_token", true).u32("tokenizer.ggml.bos_token_id", 3);
  write_seed("fuzz_gguf", "gpt2.gguf", gpt2.build());

  // One tensor of each type, of the smallest size that all types' blocks divide; unknown types are seeds, too.
  for (uint32_t type = 0; type < 42; ++type) {
    GgufBuilder types;
    types.tensor("t", {256}, type, std::string(1024, '\x2d'));
    write_seed("fuzz_gguf", "type_" + std::to_string(type) + ".gguf", types.build());
  }
}

// calibration.json, a NUL byte, and the file that it names.
void make_calibrations() {
  CalibrationIndex index{.hash = "0123456789abcdef", .tokens = 64, .context = 32, .tensors = {}};
  index.tensors.push_back({"w", "layer.0.safetensors", "w", 2, 3});
  index.tensors.push_back({"v", "layer.0.safetensors", "w", 4, 3});
  index.tensors.push_back({"u", "layer.0.safetensors", "", 2, 3});
  const RowMatrix<float> square = RowMatrix<float>::Identity(3, 3);
  const std::vector<TensorMoments> moments = {
      {"w", &square, &square, {1, 1}}, {"v", nullptr, &square, {1, 1, 1, 1}}, {"u", nullptr, &square, {1, 1}}};
  const std::string scratch = (root / "calibration_scratch").string();
  std::filesystem::create_directories(scratch);
  check(write_calibration_index(scratch, index));
  check(write_moments(scratch + "/layer.0.safetensors", index.hash, moments));
  write_seed("fuzz_calibration", "three_tensors",
             read_file(scratch + "/calibration.json") + '\0' + read_file(scratch + "/layer.0.safetensors"));
  std::filesystem::remove_all(scratch);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) die("usage: make_fuzz_seeds FOLDER");
  root = argv[1];
  std::filesystem::remove_all(root);
  make_models();
  make_described_models();
  make_codecs();
  make_checkpoints();
  make_safetensors();
  make_ggufs();
  make_kept_sources();
  make_calibrations();
  return 0;
}
