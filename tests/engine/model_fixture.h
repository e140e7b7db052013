// Small models for the tests of engine and evaluation: raw .nwc files made of given tensors, and a decoder that counts.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <optional>
#include <random>

#include "runtime/base/half.h"
#include "runtime/decoder/decoder.h"
#include "runtime/engine/session.h"
#include "tests/model_records.h"
#include "trainer/codec/container_write.h"
#include "trainer/data/model_source.h"

namespace nwc::test {

struct PlainTensor {
  std::vector<uint64_t> shape;
  Dtype dtype = Dtype::kF32;
  std::vector<uint8_t> bytes;
};

/// A model before it becomes a file; tests change it to make hostile ones.
struct PlainModel {
  ModelRecord record;
  bool with_record = true;
  std::vector<uint8_t> record_bytes;  ///< in place of the record's own, unless empty
  std::map<std::string, PlainTensor> tensors;
  std::optional<TokenizerRecord> tokenizer = {};
  std::optional<ChatRecord> chat = {};
};

inline PlainTensor random_tensor(std::vector<uint64_t> shape, float mean, float deviation, std::mt19937& rng) {
  PlainTensor tensor;
  tensor.shape = std::move(shape);
  uint64_t count = 1;
  for (uint64_t d : tensor.shape) count *= d;
  std::normal_distribution<float> normal(mean, deviation);
  tensor.bytes.resize(static_cast<size_t>(count) * sizeof(float));
  for (size_t i = 0; i < count; ++i) store_le(tensor.bytes.data() + i * sizeof(float), normal(rng));
  return tensor;
}

inline ModelRecord small_record() {
  ModelRecord r = llama_record(
      {.vocab = 101, .hidden = 40, .inner = 72, .layers = 5, .heads = 6, .kv_heads = 2, .head_dim = 8, .context = 300});
  r.tied_embeddings = true;
  r.eos_ids = {3};
  return r;
}

/// A vocabulary so large that a band of the output head is smaller than the whole of it.
inline ModelRecord wide_record() {
  ModelRecord r = small_record();
  r.vocab_size = 14000;
  return r;
}

/// Weights large enough for logits that differ clearly from token to token.
inline PlainModel random_model(const ModelRecord& r, uint32_t seed) {
  std::mt19937 rng(seed);
  PlainModel model;
  model.record = r;
  const uint64_t hidden = r.hidden_size, q = uint64_t{r.block().num_heads} * r.block().head_dim,
                 kv = uint64_t{r.block().num_kv_heads} * r.block().head_dim;
  const auto matrix = [&](const std::string& name, uint64_t rows, uint64_t cols) {
    model.tensors[name] = random_tensor({rows, cols}, 0, 1.5f / std::sqrt(static_cast<float>(cols)), rng);
  };
  const auto gain = [&](const std::string& name) { model.tensors[name] = random_tensor({hidden}, 1, 0.2f, rng); };
  matrix("model.embed_tokens.weight", r.vocab_size, hidden);
  if (!r.tied_embeddings) matrix("lm_head.weight", r.vocab_size, hidden);
  gain("model.norm.weight");
  for (uint32_t l = 0; l < r.num_layers; ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    gain(p + "input_layernorm.weight");
    gain(p + "post_attention_layernorm.weight");
    matrix(p + "self_attn.q_proj.weight", q, hidden);
    matrix(p + "self_attn.k_proj.weight", kv, hidden);
    matrix(p + "self_attn.v_proj.weight", kv, hidden);
    matrix(p + "self_attn.o_proj.weight", hidden, q);
    matrix(p + "mlp.gate_proj.weight", r.block().intermediate_size, hidden);
    matrix(p + "mlp.up_proj.weight", r.block().intermediate_size, hidden);
    matrix(p + "mlp.down_proj.weight", hidden, r.block().intermediate_size);
  }
  return model;
}

/// A Hugging Face directory as it is.
inline PlainModel load_model(const std::string& path) {
  PlainModel model;
  auto source = open_model_source(path);
  EXPECT_TRUE(source.ok()) << source.status().message();
  if (!source.ok()) return model;
  EXPECT_TRUE((*source)->model().has_value());
  model.record = *(*source)->model();
  for (size_t i = 0; i < (*source)->tensors().size(); ++i) {
    const SourceTensor& t = (*source)->tensors()[i];
    PlainTensor tensor{t.shape, t.dtype, std::vector<uint8_t>(t.num_elements() * dtype_size(t.dtype))};
    EXPECT_TRUE((*source)->read_raw(i, tensor.bytes).ok());
    model.tensors[t.name] = std::move(tensor);
  }
  return model;
}

/// The running test's name, fit for a file's.
inline std::string test_name() {
  std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

/// All tensors raw.
inline void write_file(const PlainModel& model, const std::string& path) {
  std::vector<TensorRecord> records;
  for (const auto& [name, tensor] : model.tensors) {
    TensorRecord record;
    record.name = name;
    record.dtype = tensor.dtype;
    record.shape = tensor.shape;
    record.size = tensor.bytes.size();
    record.crc = crc32(tensor.bytes);
    records.push_back(record);
  }
  std::vector<Section> sections;
  const std::vector<uint8_t> description = model.record_bytes.empty() ? serialize(model.record) : model.record_bytes;
  if (model.with_record) sections.push_back({SectionType::kModel, description, false, false});
  if (model.tokenizer) sections.push_back({SectionType::kTokenizer, serialize(*model.tokenizer), false, false});
  if (model.chat) sections.push_back({SectionType::kChat, serialize(*model.chat), true, true});
  sections.push_back({SectionType::kProvenance, serialize(Metadata{}), false, false});
  auto writer = ModelWriter::create(path, sections, records);
  EXPECT_TRUE(writer.ok()) << writer.status().message();
  for (const TensorRecord& record : records) {
    const Bytes bytes = model.tensors.at(record.name).bytes;
    EXPECT_TRUE(writer->append(record, std::span(&bytes, 1)).ok());
  }
  EXPECT_TRUE(writer->commit().ok());
}

inline std::unique_ptr<NwcFile> open_file(const std::string& path) {
  auto reader = open_file_reader(path);
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  auto file = NwcFile::open(std::move(reader).value());
  EXPECT_TRUE(file.ok()) << file.status().message();
  return file.ok() ? std::move(file).value() : nullptr;
}

/// Open, but no longer there.
inline std::unique_ptr<NwcFile> make_file(const PlainModel& model) {
  static std::atomic<int> serial{0};
  const std::string path = ::testing::TempDir() + "engine_" + std::to_string(getpid()) + "_" +
                           std::to_string(serial++) + "_" + test_name() + ".nwc";
  write_file(model, path);
  auto file = open_file(path);
  std::remove(path.c_str());
  return file;
}

/// Decodes raw tensors with the scalar conversions; notes what it was asked for, and fails on demand.
class CountingDecoder final : public Decoder {
 public:
  explicit CountingDecoder(const NwcFile& file) : file_(file), calls_(file.tensors().size()), checks_(calls_.size()) {}
  const std::string& name() const override { return name_; }
  Status decode_values(size_t, std::span<int16_t>) override { return unsupported("raw tensors only"); }

  Status decode(const DecodeRequest& r) override {
    EXPECT_EQ(inside_.fetch_add(1), 0) << "two calls at a time";
    ++calls_[r.tensor];
    checks_[r.tensor] += r.check_crc;
    const Status status = convert(r);
    inside_.fetch_sub(1);
    return status;
  }
  int calls(const std::string& tensor) const { return calls_[*file_.find(tensor)]; }
  int checks(const std::string& tensor) const { return checks_[*file_.find(tensor)]; }
  /// The next decoding of this tensor fails.
  void fail_once(const std::string& tensor) { fail_ = static_cast<int64_t>(*file_.find(tensor)); }
  /// Every decoding of this tensor fails until stop_failing().
  void fail_always(const std::string& tensor) {
    always_ = true;
    fail_once(tensor);
  }
  void stop_failing() {
    fail_ = -1;
    always_ = false;
  }

 private:
  Status convert(const DecodeRequest& r) {
    int64_t expected = static_cast<int64_t>(r.tensor);
    if (always_ ? fail_ == expected : fail_.compare_exchange_strong(expected, -1))
      return Status(StatusCode::kChecksum, "made to fail");
    std::vector<uint8_t> storage;
    NWC_ASSIGN_OR_RETURN(const Bytes raw, file_.load_raw(r.tensor, r.check_crc, &storage));
    const TensorRecord& t = file_.tensors()[r.tensor];
    const uint64_t begin = r.row_begin * t.cols(), end = r.row_end * t.cols();
    EXPECT_LE(end, t.num_elements());
    EXPECT_EQ(r.out.size(), (end - begin) * dtype_size(r.dtype));
    for (uint64_t i = begin; i < end; ++i) {
      const uint8_t* in = raw.data() + i * dtype_size(t.dtype);
      const float v = t.dtype == Dtype::kF32   ? load_le<float>(in)
                      : t.dtype == Dtype::kF16 ? f16_to_f32(load_le<uint16_t>(in))
                                               : bf16_to_f32(load_le<uint16_t>(in));
      uint8_t* out = r.out.data() + (i - begin) * dtype_size(r.dtype);
      if (r.dtype == Dtype::kF32) store_le(out, v);
      if (r.dtype == Dtype::kF16) store_le(out, f32_to_f16(v));
      if (r.dtype == Dtype::kBf16) store_le(out, f32_to_bf16(v));
    }
    return {};
  }

  const NwcFile& file_;
  const std::string name_ = "counting";
  std::vector<std::atomic<int>> calls_, checks_;
  std::atomic<int64_t> fail_{-1};
  std::atomic<bool> always_{false};
  std::atomic<int> inside_{0};
};

/// File, decoder, threads and session, in the right order of destruction.
struct Bench {
  std::unique_ptr<NwcFile> file;
  std::unique_ptr<CountingDecoder> decoder;
  std::unique_ptr<Runner> runner;
  std::unique_ptr<Session> session;
};
inline Bench make_bench(std::unique_ptr<NwcFile> file, const SessionParams& params, uint32_t threads = 2) {
  Bench b;
  b.file = std::move(file);
  b.decoder = std::make_unique<CountingDecoder>(*b.file);
  b.runner = make_thread_pool(threads);
  auto session = Session::create(*b.file, *b.decoder, *b.runner, params);
  EXPECT_TRUE(session.ok()) << session.status().message();
  if (session.ok()) b.session = std::move(session).value();
  return b;
}

inline Bench make_bench(const PlainModel& model, const SessionParams& params, uint32_t threads = 2) {
  return make_bench(make_file(model), params, threads);
}

inline std::vector<uint32_t> random_tokens(uint32_t count, uint32_t vocab, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& t : tokens) t = static_cast<uint32_t>(rng() % vocab);
  return tokens;
}

/// All logits of a fresh sequence.
inline std::vector<float> all_logits(Session& session, std::span<const uint32_t> tokens) {
  std::vector<float> logits(tokens.size() * session.vocab_size());
  session.reset();
  const Status status = session.eval(tokens, LogitsWanted::kAll, logits);
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

inline float largest_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float d = std::abs(a[i] - b[i]);
    if (!(d <= most)) most = d;  // a NaN must not pass
  }
  return most;
}

}  // namespace nwc::test
