#include "trainer/data/gguf_source.h"

#include <unordered_set>

#include "trainer/data/gguf_file.h"
#include "trainer/data/gguf_model.h"
#include "trainer/data/gguf_tokenizer.h"
#include "trainer/data/source_layout.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

class GgufSource : public ModelSource {
 public:
  explicit GgufSource(GgufFile file) : file_(std::move(file)) {}
  Status init();

  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Status read_raw(size_t tensor, MutableBytes out) const override;
  const std::optional<ModelRecord>& model() const override { return model_; }
  const std::optional<TokenizerRecord>& tokenizer() const override { return tokenizer_; }
  uint64_t stored_bytes() const override;
  Result<SourceFiles> source_files() const override;
  const SourceNotes& notes() const override { return notes_; }

 private:
  struct Place {
    const GgufTensor* stored;
    uint32_t rotary_head_dim;  ///< of a q or k projection whose rows are to be put back into order; else 0
  };

  void add_note(NoteKind kind, const std::string& subject, const std::string& text) {
    notes_.push_back({kind, subject, text});
  }
  void list_tensors(const ModelRecord* model);
  Status add_model();
  Status add_tokenizer();

  GgufFile file_;
  std::vector<SourceTensor> tensors_;
  std::vector<Place> places_;  // one per tensor
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> tokenizer_;
  SourceNotes notes_;
};

// With a model, under Hugging Face's names and without the rotary factors, which the model record has taken over.
void GgufSource::list_tensors(const ModelRecord* model) {
  tensors_.clear();
  places_.clear();
  for (const GgufTensor& stored : file_.tensors()) {
    std::string name = stored.name;
    uint32_t rotary_head_dim = 0;
    if (model != nullptr) {
      if (is_rope_factors(name)) continue;
      if (model->names.empty()) name = translate_gguf_name(name);
      if (is_rotary_projection(name)) rotary_head_dim = model->block().head_dim;
    }
    tensors_.push_back({std::move(name), stored.type->dtype, stored.type->name, stored.shape, stored.size_bytes});
    places_.push_back({&stored, rotary_head_dim});
  }
}

Status GgufSource::add_model() {
  Result<ModelRecord> model = parse_gguf_model(file_);
  Status status = model.status();
  if (model.ok()) {
    list_tensors(&model.value());
    std::unordered_set<std::string_view> names;
    for (const SourceTensor& tensor : tensors_) {
      // A file may hold a tensor under both names.
      if (!names.insert(tensor.name).second) return corrupt(quote_tensor(tensor.name) + " occurs twice");
    }
    status = resolve_source_layout(*model, tensors_).status();
  }
  if (status.ok()) {
    if (auto note = note_of_further_layers(*model, tensors_, "block_count")) notes_.push_back(std::move(*note));
    model_ = std::move(model).value();
    return {};
  }
  if (status.code() != StatusCode::kUnsupported) return status;
  add_note(NoteKind::kModelLeftOut, "", status.message());
  list_tensors(nullptr);
  return {};
}

Status GgufSource::add_tokenizer() {
  if (!file_.has("tokenizer.ggml.model")) {
    add_note(NoteKind::kTokenizerLeftOut, "", "metadata key \"tokenizer.ggml.model\" is missing");
    return {};
  }
  std::string note;
  Result<TokenizerRecord> tokenizer = parse_gguf_tokenizer(file_, &note);
  // However odd a tokenizer is, the weights are as good without it.
  if (!tokenizer.ok()) {
    const StatusCode code = tokenizer.status().code();
    if (code != StatusCode::kUnsupported && code != StatusCode::kCorrupt && code != StatusCode::kLimit) {
      return tokenizer.status();
    }
    add_note(NoteKind::kTokenizerLeftOut, "", tokenizer.status().message());
    return {};
  }
  if (!note.empty()) add_note(NoteKind::kGuessed, "pre_tokenizer", note);
  if (model_ && tokenizer->tokens.size() > model_->vocab_size) {
    add_note(NoteKind::kTokenizerLeftOut, "",
             "it has " + std::to_string(tokenizer->tokens.size()) + " tokens, the embedding only " +
                 std::to_string(model_->vocab_size));
    return {};
  }
  tokenizer_ = std::move(tokenizer).value();
  return {};
}

Status GgufSource::init() {
  list_tensors(nullptr);
  NWC_TRY(add_model());
  return add_tokenizer();
}

Status GgufSource::read_raw(size_t tensor, MutableBytes out) const {
  if (tensor >= tensors_.size() || out.size() != tensors_[tensor].num_bytes()) {
    return invalid_argument("read_raw: no tensor " + std::to_string(tensor) + ", or not of " +
                            std::to_string(out.size()) + " bytes");
  }
  if (out.empty()) return {};
  const GgufTensor& stored = *places_[tensor].stored;
  const std::string& name = tensors_[tensor].name;
  const uint32_t head_dim = places_[tensor].rotary_head_dim;
  if (!stored.type->quantized() && head_dim == 0) {
    return stored.reader->read(stored.offset, out).with_context(quote_tensor(name));
  }
  // Row by row: blocks do not cross rows. Of a bias each number is a row.
  if (stored.shape.size() < 2 && head_dim != 0 && stored.type->quantized())
    return unsupported(quote_tensor(name) + " is a quantized bias, whose numbers cannot change places");
  const uint64_t rows = stored.shape.size() < 2 && head_dim == 0 ? 1 : stored.shape[0];
  const auto columns = static_cast<size_t>(tensors_[tensor].num_elements() / rows);
  const auto row_bytes = static_cast<size_t>(stored.size_bytes / rows);
  std::vector<uint8_t> packed(row_bytes);
  std::vector<float> unpacked(stored.type->quantized() ? columns : 0);
  for (uint64_t row = 0; row < rows; ++row) {
    const uint64_t from = head_dim == 0 ? row : gguf_rotary_row(row, head_dim);
    NWC_TRY(stored.reader->read(stored.offset + from * row_bytes, packed).with_context(quote_tensor(name)));
    uint8_t* to = out.data() + row * (out.size() / rows);
    if (stored.type->quantized()) {
      dequantize(*stored.type, packed, unpacked);
      std::memcpy(to, unpacked.data(), columns * sizeof(float));
    } else {
      std::memcpy(to, packed.data(), row_bytes);
    }
  }
  return {};
}

Result<SourceFiles> GgufSource::source_files() const {
  SourceFiles files;
  files.record.kind = SourceKind::kGguf;
  uint32_t number = 1;
  for (const Bytes header : file_.headers()) {
    const auto read = [&] { return Result<std::vector<uint8_t>>({header.begin(), header.end()}); };
    const std::string name = number == 1 ? "header.gguf" : "header-" + std::to_string(number) + ".gguf";
    NWC_TRY(add_source_file(name, header.size(), read, &files));
    ++number;
  }
  return files;
}

uint64_t GgufSource::stored_bytes() const {
  uint64_t sum = 0;
  for (const Place& place : places_) sum += place.stored->size_bytes;
  return sum;
}

}  // namespace

Result<std::unique_ptr<ModelSource>> open_gguf(GgufFile file) {
  auto source = std::make_unique<GgufSource>(std::move(file));
  NWC_TRY(source->init());
  return std::unique_ptr<ModelSource>(std::move(source));
}

}  // namespace nwc
