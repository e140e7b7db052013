#include "tests/fuzz/small_model.h"

#include "runtime/base/half.h"
#include "tests/model_records.h"

namespace nwc::fuzz {
namespace {

ModelRecord small_record(bool tied) {
  ModelRecord r = test::llama_record({.vocab = 32, .hidden = 16, .inner = 32, .layers = 2, .heads = 2});
  r.tied_embeddings = tied;
  r.eos_ids = {3};
  return r;
}

reference::TestTensor make_norm(const std::string& name, uint32_t width, Dtype dtype) {
  ByteWriter values;
  for (uint32_t i = 0; i < width; ++i) {
    const float v = 0.75f + 0.0625f * static_cast<float>(i % 8);
    if (dtype == Dtype::kF32) values.write(v);
    if (dtype == Dtype::kF16) values.write(f32_to_f16(v));
    if (dtype == Dtype::kBf16) values.write(f32_to_bf16(v));
  }
  reference::TestTensor t = reference::make_raw_tensor(name, values.take(), false);
  t.record.dtype = dtype;
  t.record.shape = {width};
  return t;
}

/// Each way in which a system text can stand, and a template without a format.
ChatRecord small_chat(uint64_t kind) {
  ChatRecord record;
  record.jinja = "{% for m in messages %}{{ m }}{% endfor %}";
  if (kind == 2) return record;
  ChatFormat& format = record.format.emplace();
  format.name = "small";
  format.begin = std::string("<s>\0", 4);
  format.system = kind == 0 ? ChatSystem::kOwnTurn : ChatSystem::kFirstUser;
  format.system_suffix = format.user_suffix = format.assistant_suffix = "\n";
  format.user_prefix = "U:";
  format.assistant_prefix = format.open_answer = "A:";
  format.trim.user = true;
  format.trim.first_user = kind == 1;
  format.default_system = "s";
  format.stop = {"</s>", "U:"};
  return record;
}

}  // namespace

TokenizerRecord small_tokenizer(TokenizerKind kind) {
  TokenizerRecord r;
  r.kind = kind;
  const bool sentencepiece = kind == TokenizerKind::kSentencePieceBpe;
  r.pre_tokenizer = sentencepiece ? PreTokenizer::kNone : PreTokenizer::kGpt2;
  r.byte_fallback = sentencepiece;
  r.tokens.push_back({"<s>", TokenType::kControl, 0});
  r.tokens.push_back({"</s>", TokenType::kControl, 0});
  for (int byte = 0; byte < 256; ++byte) {
    const TokenType type = sentencepiece ? TokenType::kByte : TokenType::kNormal;
    r.tokens.push_back({std::string(1, static_cast<char>(byte)), type, 0});
  }
  r.bos_id = 0;
  r.add_bos = true;
  float score = -1;
  for (const char* text : {" ", "l", "o", "ll", " l", "lo", "llo", " llo"}) {
    if (!sentencepiece && std::string(text).size() == 1) continue;
    r.tokens.push_back({text, TokenType::kNormal, score -= 1});
  }
  if (sentencepiece) return r;
  const auto id = [&](const std::string& bytes) {
    uint32_t i = 0;
    while (r.tokens[i].bytes != bytes) ++i;
    return i;
  };
  for (const auto& [left, right] : {std::pair{"l", "l"}, {" ", "l"}, {"l", "o"}, {"ll", "o"}, {" ", "llo"}})
    r.merges.push_back({id(left), id(right), id(std::string(left) + right)});
  return r;
}

std::vector<uint8_t> make_small_model(const SmallModelOptions& o) {
  const CodecRecord codec = reference::make_codec(o.codec, o.seed);
  ModelRecord record = small_record(o.tied);
  if (o.described) {
    record.blocks.push_back(record.block());
    record.blocks[1].window = 4;
    record.blocks[1].rope.scaling = RopeScaling::kYarn;
    record.blocks[1].rope.factor = 2;
    record.blocks[1].rope.original_max_positions = 8;
    record.blocks[1].attention_softcap = 50;
    record.block_kind = {0, 1};
    record.ends.logit_softcap = 30;
    record.names = llama_names();
  }
  std::vector<reference::TestTensor> tensors;
  std::vector<uint32_t> groups;
  const auto matrix = [&](const std::string& name, uint64_t rows, uint64_t cols, uint32_t group) {
    reference::TensorOptions options{.name = name, .shape = {rows, cols}, .tile_rows = 16, .tile_cols = 32};
    options.row_scales = o.row_scales;
    options.row_classes = o.codec.row_classes;
    options.wrapping = false;
    options.escapes_below = 100;
    tensors.push_back(make_tensor(codec, options, o.seed + static_cast<uint32_t>(tensors.size())));
    tensors.back().record.scale_base = o.scale_base;
    groups.push_back(group);
  };
  const auto norm = [&](const std::string& name, uint32_t group) {
    tensors.push_back(make_norm(name, record.hidden_size, o.norms));
    groups.push_back(group);
  };
  const uint64_t hidden = record.hidden_size, kv = uint64_t{record.block().num_kv_heads} * record.block().head_dim;
  matrix("model.embed_tokens.weight", record.vocab_size, hidden, 0);
  for (uint32_t l = 0; l < record.num_layers; ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    norm(prefix + "input_layernorm.weight", l + 1);
    matrix(prefix + "self_attn.q_proj.weight", hidden, hidden, l + 1);
    matrix(prefix + "self_attn.k_proj.weight", kv, hidden, l + 1);
    matrix(prefix + "self_attn.v_proj.weight", kv, hidden, l + 1);
    matrix(prefix + "self_attn.o_proj.weight", hidden, hidden, l + 1);
    norm(prefix + "post_attention_layernorm.weight", l + 1);
    matrix(prefix + "mlp.gate_proj.weight", record.block().intermediate_size, hidden, l + 1);
    matrix(prefix + "mlp.up_proj.weight", record.block().intermediate_size, hidden, l + 1);
    matrix(prefix + "mlp.down_proj.weight", hidden, record.block().intermediate_size, l + 1);
  }
  norm("model.norm.weight", record.num_layers + 1);
  if (!o.tied) matrix("lm_head.weight", record.vocab_size, hidden, record.num_layers + 1);

  ByteWriter data;
  std::vector<TensorRecord> records;
  for (size_t i = 0; i < tensors.size(); ++i) {
    while (data.size() % 64 != 0) data.write(uint8_t{0});
    tensors[i].record.group = groups[i];
    tensors[i].record.offset = data.size();
    data.write_bytes(tensors[i].blob);
    records.push_back(tensors[i].record);
  }
  std::vector<reference::Section> sections = {{SectionType::kCodec, serialize(codec)},
                                              {SectionType::kModel, serialize(record)}};
  if (o.tokenizer) {
    const auto kind = o.seed % 2 == 0 ? TokenizerKind::kSentencePieceBpe : TokenizerKind::kByteLevelBpe;
    sections.push_back({SectionType::kTokenizer,
                        o.tokenizer_section.empty() ? serialize(small_tokenizer(kind)) : o.tokenizer_section, true});
    sections.push_back({SectionType::kChat, serialize(small_chat(o.seed % 3)), true, true});
  }
  if (!o.source.empty()) sections.push_back({SectionType::kSource, o.source, true, true});
  sections.push_back({SectionType::kTensors, serialize(records), true});
  sections.push_back({SectionType::kProvenance, serialize(Metadata{{"encoder", "reference"}})});
  sections.push_back({SectionType::kData, data.take()});
  sections.push_back({SectionType::kQuality, serialize(Metadata{{"tokens", "0"}})});
  return reference::make_container(FileKind::kModel, sections);
}

}  // namespace nwc::fuzz
