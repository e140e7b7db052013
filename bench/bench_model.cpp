// Makes a Llama model, or a mixture of experts in the shape of Qwen3-MoE, of any size, whose coded weights are drawn
// from their tables. Its text is meaningless, but its speed is that of a real model, which would have to be downloaded.
// How a mixture's tokens choose experts is that of real ones, too (routing.h).
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <random>

#include "bench/bench_commands.h"
#include "bench/routing.h"
#include "runtime/base/half.h"
#include "runtime/format/model_record.h"
#include "tests/codec/reference_encoder.h"
#include "tests/model_records.h"
#include "trainer/codec/container_write.h"
#include "trainer/data/hf_names.h"
#include "trainer/search/tensor_encode.h"

namespace nwc::bench {
namespace {

struct ModelOptions {
  std::string path, preset = "identity";
  double bits = 4;
  uint32_t threads = 0, hidden = 2048, inner = 8192, layers = 16, heads = 32, kv_heads = 8, vocab = 8192,
           context = 2048;
  uint32_t experts = 0, per_token = 8, expert_inner = 640, head_dim = 0;  ///< no experts: a dense model
  bool raw = false;                                                       ///< f16 in place of coded weights
};

/// Matrices by shape: those of one shape have the same bytes, so that making a model of a thousand million weights
/// takes seconds.
class Matrices {
 public:
  explicit Matrices(const ModelOptions& o) {
    layer_.bits = o.bits;
    layer_.preset = o.preset;
    layer_.fitted = true;
    codec_ = synthetic_codec(layer_);
  }
  const CodecRecord& codec() const { return codec_; }
  void want(uint64_t rows, uint64_t cols) { made_[{rows, cols}]; }
  /// The same, uncoded: random f16 of about the same size.
  void make_raw() {
    uint64_t seed = 0;
    for (auto& [shape, made] : made_) {
      const auto [rows, cols] = shape;
      std::mt19937_64 rng(++seed);
      const float scale = 1.7f / std::sqrt(static_cast<float>(cols));
      made.blob.resize(static_cast<size_t>(rows * cols * sizeof(uint16_t)));
      for (size_t i = 0; i < made.blob.size(); i += 2) {
        const float u = static_cast<float>(rng() >> 40) / 8388608.0f - 1.0f;
        store_le<uint16_t>(&made.blob[i], f32_to_f16(scale * u));
      }
      made.record.shape = {rows, cols};
      made.record.dtype = Dtype::kF16;
      made.record.size = made.blob.size();
      made.record.crc = crc32(made.blob);
    }
  }
  void make(Runner& runner) {
    std::vector<std::pair<const Shape, reference::TestTensor>*> all;
    for (auto& one : made_) all.push_back(&one);
    parallel_for(runner, static_cast<uint32_t>(all.size()), [&](uint32_t i, uint32_t) {
      const auto [rows, cols] = all[i]->first;
      const TileShape tile = choose_tile_shape(rows, cols, layer_.trellis);
      reference::TensorOptions t;
      t.shape = {rows, cols};
      t.tile_rows = tile.rows;
      t.tile_cols = tile.cols;
      t.one_level = true;
      t.wrapping = false;
      // Little more than the tables hold, as an encoder's: integers stay exact, and so can be held.
      t.escapes_below = 100;
      reference::TestTensor& made = all[i]->second;
      made = reference::make_tensor(codec_, t, i + 1);
      made.k = {}, made.values = {};
      // Scales' codes are uniform: weights come to a deviation of about one over the root of the columns.
      made.record.scale_base = 0.3f / std::sqrt(static_cast<float>(cols));
    });
  }
  const reference::TestTensor& get(uint64_t rows, uint64_t cols) const { return made_.at({rows, cols}); }

 private:
  using Shape = std::pair<uint64_t, uint64_t>;
  SyntheticOptions layer_;
  CodecRecord codec_;
  std::map<Shape, reference::TestTensor> made_;
};

ModelRecord make_record(const ModelOptions& o) {
  ModelRecord r = test::llama_record({.vocab = o.vocab,
                                      .hidden = o.hidden,
                                      .inner = o.inner,
                                      .layers = o.layers,
                                      .heads = o.heads,
                                      .kv_heads = o.kv_heads,
                                      .context = o.context});
  r.tied_embeddings = true;
  if (o.head_dim != 0) r.block().head_dim = o.head_dim;
  if (o.experts == 0) return r;
  BlockSpec& block = r.block();
  block.qk_norm = QkNorm::kPerHead;
  block.experts.num_experts = o.experts;
  block.experts.per_token = o.per_token;
  block.experts.intermediate_size = o.expert_inner;
  block.experts.normalized = true;
  r.names = names_of_qwen3_moe();
  return r;
}

struct Wanted {
  std::string name;
  uint64_t rows = 0, cols = 0;  ///< no columns: a norm's gains
  uint32_t group = 0;
  bool router = false;
};

std::vector<Wanted> tensors_of(const ModelRecord& r) {
  const uint64_t hidden = r.hidden_size, q = uint64_t{r.block().num_heads} * r.block().head_dim,
                 kv = uint64_t{r.block().num_kv_heads} * r.block().head_dim, inner = r.block().intermediate_size;
  std::vector<Wanted> list = {{"model.embed_tokens.weight", r.vocab_size, hidden, 0}};
  for (uint32_t l = 0; l < r.num_layers; ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    const uint32_t group = l + 1;
    list.insert(list.end(), {{p + "input_layernorm.weight", hidden, 0, group},
                             {p + "self_attn.q_proj.weight", q, hidden, group},
                             {p + "self_attn.k_proj.weight", kv, hidden, group},
                             {p + "self_attn.v_proj.weight", kv, hidden, group},
                             {p + "self_attn.o_proj.weight", hidden, q, group},
                             {p + "post_attention_layernorm.weight", hidden, 0, group}});
    const ExpertSpec& experts = r.block().experts;
    if (experts.num_experts == 0) {
      list.insert(list.end(), {{p + "mlp.gate_proj.weight", inner, hidden, group},
                               {p + "mlp.up_proj.weight", inner, hidden, group},
                               {p + "mlp.down_proj.weight", hidden, inner, group}});
      continue;
    }
    list.insert(list.end(), {{p + "self_attn.q_norm.weight", r.block().head_dim, 0, group},
                             {p + "self_attn.k_norm.weight", r.block().head_dim, 0, group},
                             {p + "mlp.gate.weight", experts.num_experts, hidden, group, true}});
    for (uint32_t e = 0; e < experts.num_experts; ++e) {
      const std::string x = p + "mlp.experts." + std::to_string(e) + ".";
      list.insert(list.end(), {{x + "gate_proj.weight", experts.intermediate_size, hidden, group},
                               {x + "up_proj.weight", experts.intermediate_size, hidden, group},
                               {x + "down_proj.weight", hidden, experts.intermediate_size, group}});
    }
  }
  list.push_back({"model.norm.weight", hidden, 0, r.num_layers + 1});
  return list;
}

void run_model(const ModelOptions& o) {
  const ModelRecord model = make_record(o);
  check(validate(model));
  const std::vector<Wanted> wanted = tensors_of(model);
  Matrices matrices(o);
  for (const Wanted& w : wanted) {
    if (w.cols != 0 && !w.router) matrices.want(w.rows, w.cols);
  }
  const auto runner = make_thread_pool(o.threads);
  if (o.raw) {
    matrices.make_raw();
  } else {
    matrices.make(*runner);
  }

  // Raw, since only what is not drawn from tables says which experts a token takes.
  std::vector<uint8_t> embedding;
  if (o.experts != 0) embedding = topic_embedding(o.vocab, o.hidden);
  const std::vector<float> gains(std::max(o.hidden, model.block().head_dim), 1.0f);
  std::vector<TensorRecord> records;
  std::vector<Bytes> blobs;
  std::vector<std::vector<uint8_t>> routers;
  routers.reserve(model.num_layers);
  uint64_t weights = 0;
  for (const Wanted& w : wanted) {
    TensorRecord record;
    if (w.cols == 0 || w.router) {
      record.shape = {w.rows};
      Bytes bytes(reinterpret_cast<const uint8_t*>(gains.data()), static_cast<size_t>(w.rows) * sizeof(float));
      if (w.router) {  // each layer's own, so that every layer takes other experts
        record.shape.push_back(w.cols);
        std::mt19937_64 rng(w.group);
        std::normal_distribution<float> normal(0, 3 / std::sqrt(static_cast<float>(w.cols)));
        std::vector<uint8_t>& router = routers.emplace_back(static_cast<size_t>(w.rows * w.cols) * sizeof(float));
        for (size_t i = 0; i < router.size(); i += sizeof(float)) store_le<float>(&router[i], normal(rng));
        bytes = router;
      }
      record.dtype = Dtype::kF32;
      record.size = bytes.size();
      record.crc = crc32(bytes);
      blobs.push_back(bytes);
    } else if (w.group == 0 && !embedding.empty()) {
      record.shape = {w.rows, w.cols};
      record.dtype = Dtype::kF16;
      record.size = embedding.size();
      record.crc = crc32(embedding);
      blobs.push_back(embedding);
    } else {
      const reference::TestTensor& matrix = matrices.get(w.rows, w.cols);
      record = matrix.record;
      blobs.push_back(matrix.blob);
    }
    record.name = w.name;
    record.group = w.group;
    weights += record.num_elements();
    records.push_back(record);
  }
  std::vector<Section> sections;
  if (!o.raw) sections.push_back({SectionType::kCodec, serialize(matrices.codec())});
  sections.push_back({SectionType::kModel, serialize(model)});
  sections.push_back({SectionType::kProvenance, serialize(Metadata{{"encoder", "nwc-bench"}})});
  auto writer = ModelWriter::create(o.path, sections, records);
  check(writer.status());
  for (size_t i = 0; i < records.size(); ++i) check(writer->append(records[i], {&blobs[i], 1}));
  const auto size = writer->commit();
  check(size.status());
  std::printf("%s: %.1f million weights, %.1f MB\n", o.path.c_str(), 1e-6 * static_cast<double>(weights),
              1e-6 * static_cast<double>(*size));
}

}  // namespace

void add_model(cli::CommandLine& line) {
  const auto o = std::make_shared<ModelOptions>();
  cli::Command command = line.add_command("model", "Write a model of random coded weights, for `tokens` and `mixture`");
  command.add_option("output", o->path, "File to write (.nwc)").required();
  const auto number = [&](const char* name, uint32_t* value, const char* help) {
    command.add_option(name, *value, help).show_default();
  };
  number("--hidden", &o->hidden, "Size of the hidden state, a multiple of the heads");
  number("--inner", &o->inner, "Size of the MLP's inner state");
  number("--layers", &o->layers, "Layers");
  number("--heads", &o->heads, "Heads");
  number("--kv-heads", &o->kv_heads, "Heads of keys and values");
  number("--vocab", &o->vocab, "Tokens of the vocabulary");
  number("--context", &o->context, "Positions");
  number("--threads", &o->threads, "Threads; 0: one per core");
  number("--head-dim", &o->head_dim, "Size of a head; 0: that of the hidden state by the heads");
  number("--experts", &o->experts, "Experts of a layer; 0: the model is dense");
  number("--per-token", &o->per_token, "Experts that a token takes");
  number("--expert-inner", &o->expert_inner, "Size of an expert's inner state");
  command.add_flag("--raw", o->raw, "Write f16 weights that are not coded");
  command.add_option("--bits", o->bits, "Bits per weight, about").range(1.0, 6.5).show_default();
  command.add_option("--preset", o->preset, "Synthesis network")
      .one_of({"identity", "linear", "small", "paper"})
      .show_default();
  command.on_run([o] {
    if (o->heads == 0 || o->kv_heads == 0) throw cli::UsageError{"a model has heads"};
    run_model(*o);
  });
}

}  // namespace nwc::bench
