#include "trainer/data/gguf_source.h"

#include <unordered_set>

#include "trainer/data/gguf_file.h"
#include "trainer/data/gguf_listing.h"
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
  void add_note(NoteKind kind, const std::string& subject, const std::string& text) {
    notes_.push_back({kind, subject, text});
  }
  Status list_tensors(const ModelRecord* model);
  Status read_piece(const GgufPiece& piece, uint32_t rotary_head_dim, MutableBytes out) const;
  Status add_model();
  Status add_tokenizer();

  GgufFile file_;
  std::vector<SourceTensor> tensors_;
  std::vector<GgufListed> listed_;  // the same tensors
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> tokenizer_;
  SourceNotes notes_;
};

// Of the rows that a piece has.
uint64_t bytes_of(const GgufTensor& stored, const GgufPiece& piece) {
  return piece.count / stored.type->block_elements * stored.type->block_bytes;
}

Status GgufSource::list_tensors(const ModelRecord* model) {
  NWC_ASSIGN_OR_RETURN(listed_, list_gguf_tensors(file_, model));
  tensors_.clear();
  for (const GgufListed& listed : listed_) {
    const GgufTensor& stored = file_.tensors()[listed.pieces.front().stored];
    SourceTensor tensor{listed.name, stored.type->dtype, stored.type->name, listed.shape, 0};
    for (const GgufPiece& piece : listed.pieces) tensor.stored_bytes += bytes_of(file_.tensors()[piece.stored], piece);
    tensors_.push_back(std::move(tensor));
  }
  return {};
}

Status GgufSource::add_model() {
  Result<ModelRecord> model = parse_gguf_model(file_);
  Status status = model.status();
  if (model.ok()) status = list_tensors(&model.value());
  if (status.ok()) {
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
  return list_tensors(nullptr);
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
  NWC_TRY(add_model());
  return add_tokenizer();
}

Status GgufSource::read_raw(size_t tensor, MutableBytes out) const {
  if (tensor >= tensors_.size() || out.size() != tensors_[tensor].num_bytes()) {
    return invalid_argument("read_raw: no tensor " + std::to_string(tensor) + ", or not of " +
                            std::to_string(out.size()) + " bytes");
  }
  if (out.empty()) return {};
  const GgufListed& listed = listed_[tensor];
  size_t at = 0;
  for (const GgufPiece& piece : listed.pieces) {
    const auto size = static_cast<size_t>(dtype_bytes(tensors_[tensor].dtype, piece.count));
    NWC_TRY(read_piece(piece, listed.rotary_head_dim, out.subspan(at, size))
                .with_context(quote_tensor(tensors_[tensor].name)));
    at += size;
  }
  return {};
}

Status GgufSource::read_piece(const GgufPiece& piece, uint32_t head_dim, MutableBytes out) const {
  const GgufTensor& stored = file_.tensors()[piece.stored];
  const GgmlType& type = *stored.type;
  const uint64_t begin = stored.offset + bytes_of(stored, {piece.stored, 0, piece.first});
  if (!type.quantized() && head_dim == 0) return stored.reader->read(begin, out);
  // Row by row: blocks do not cross rows. Of a bias each number is a row.
  if (stored.shape.size() < 2 && head_dim != 0 && type.quantized())
    return unsupported("a quantized bias, whose numbers cannot change places");
  const bool numbers = stored.shape.size() < 2 && head_dim != 0;
  const uint64_t columns = numbers ? 1 : stored.shape.empty() ? piece.count : stored.shape.back();
  const uint64_t rows = piece.count / columns;
  const uint64_t row_bytes = bytes_of(stored, {piece.stored, 0, columns});
  std::vector<uint8_t> packed(static_cast<size_t>(row_bytes));
  std::vector<float> unpacked(type.quantized() ? static_cast<size_t>(columns) : 0);
  for (uint64_t row = 0; row < rows; ++row) {
    const uint64_t from = head_dim == 0 ? row : gguf_rotary_row(row, head_dim);
    NWC_TRY(stored.reader->read(begin + from * row_bytes, packed));
    uint8_t* to = out.data() + row * (out.size() / rows);
    if (type.quantized()) {
      dequantize(type, packed, unpacked);
      std::memcpy(to, unpacked.data(), unpacked.size() * sizeof(float));
    } else {
      std::memcpy(to, packed.data(), packed.size());
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
  for (const SourceTensor& tensor : tensors_) sum += tensor.stored_bytes;
  return sum;
}

}  // namespace

Result<std::unique_ptr<ModelSource>> open_gguf(GgufFile file) {
  auto source = std::make_unique<GgufSource>(std::move(file));
  NWC_TRY(source->init());
  return std::unique_ptr<ModelSource>(std::move(source));
}

}  // namespace nwc
