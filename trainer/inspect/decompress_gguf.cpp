#include <algorithm>

#include "trainer/data/gguf_form.h"
#include "trainer/data/gguf_from_hf.h"
#include "trainer/data/gguf_kept.h"
#include "trainer/data/gguf_listing.h"
#include "trainer/data/gguf_model.h"
#include "trainer/data/gguf_tokenizer_write.h"
#include "trainer/data/safetensors.h"
#include "trainer/inspect/decompress.h"
#include "trainer/inspect/tensor_output.h"

namespace nwc {
namespace {

// Within each head; the rows of other heads stay where they are.
void to_gguf_rotary_order(uint32_t head_dim, size_t row_bytes, MutableBytes rows) {
  const size_t head_bytes = head_dim * row_bytes;
  std::vector<uint8_t> head(head_bytes);
  for (size_t at = 0; at + head_bytes <= rows.size(); at += head_bytes) {
    const MutableBytes out = rows.subspan(at, head_bytes);
    std::copy(out.begin(), out.end(), head.begin());
    for (uint32_t row = 0; row < head_dim; ++row) {
      std::copy_n(head.begin() + static_cast<ptrdiff_t>(row * row_bytes), row_bytes,
                  out.begin() + static_cast<ptrdiff_t>(gguf_rotary_row(row, head_dim) * row_bytes));
    }
  }
}

bool all_finite_f16(Bytes values) {
  for (size_t i = 0; i < values.size(); i += 2) {
    if ((load_le<uint16_t>(values.data() + i) & 0x7c00u) == 0x7c00u) return false;
  }
  return true;
}

void add_one(MutableBytes floats) {
  for (size_t i = 0; i + sizeof(float) <= floats.size(); i += sizeof(float))
    store_le(&floats[i], load_le<float>(&floats[i]) + 1);
}

/// Elements of a tensor of the compressed file.
struct Segment {
  size_t record = 0;
  uint64_t first = 0, count = 0;
};

// What a GGUF file holds.
struct GgufPlan {
  GgufMetadata metadata;
  std::vector<SafetensorsTensor> tensors;
  /// For each: where it comes from; nothing for the rotary factors, which the model description has.
  std::vector<std::vector<Segment>> segments;
  std::vector<GgufPlace> places;  ///< for each: the form that it gets
  uint64_t weights = 0;           ///< that are decoded

  void add(GgufPlace place, Dtype dtype, std::vector<uint64_t> shape, std::vector<Segment> from) {
    SafetensorsTensor& t = tensors.emplace_back();
    t.name = place.name;
    t.dtype = dtype;
    t.shape = std::move(shape);
    segments.push_back(std::move(from));
    places.push_back(std::move(place));
  }
};

// llama.cpp's enum of what most of a file is stored as.
uint32_t file_type(Dtype dtype) { return dtype == Dtype::kF32 ? 0 : dtype == Dtype::kF16 ? 1 : 32; }

void note_left_out(const std::string& tensor, std::vector<std::string>* notes) {
  notes->push_back("left out: tensor \"" + tensor + "\", which GGUF's names for this architecture do not include");
}

/// Adds a tensor that is made of the file's; one that they do not have is left out.
Status add_place(const NwcFile& file, const GgufPlace& place, Dtype dtype, std::vector<bool>* used, GgufPlan* plan) {
  std::vector<Segment> segments;
  std::vector<uint64_t> shape;
  for (const GgufPart& part : place.parts) {
    const std::optional<size_t> index = file.find(part.tensor);
    if (!index || !dtype_is_float(file.tensors()[*index].dtype)) return {};
    const TensorRecord& record = file.tensors()[*index];
    (*used)[*index] = true;
    plan->weights += record.num_elements();
    std::vector<uint64_t> one = record.shape;
    const uint64_t parts = part.half == GgufPart::Half::kWhole ? 1 : 2, size = record.num_elements() / parts;
    if (parts == 2 && one.size() != 2)
      return corrupt("tensor \"" + record.name + "\" is not a matrix, of which gate and up are halves");
    if (parts == 2) one[part.groups == 1 ? 0 : 1] /= 2;
    if (!shape.empty() && one != shape)
      return corrupt("tensor \"" + record.name + "\" has another shape than those of the other experts");
    shape = std::move(one);
    for (uint64_t group = 0; group < part.groups; ++group) {
      const uint64_t of_group = size / part.groups;
      const uint64_t half = part.half == GgufPart::Half::kSecond ? of_group : 0;
      segments.push_back({*index, group * parts * of_group + half, of_group});
    }
  }
  if (place.stacked) shape.insert(shape.begin(), place.parts.size());
  const bool matrix = shape.size() > 1 && !place.f32;
  plan->add(place, matrix ? dtype : Dtype::kF32, std::move(shape), std::move(segments));
  return {};
}

// From hyperparameters and tokenizer, with GGUF's names for the tensors.
Result<GgufPlan> plan_from_records(const NwcFile& file, const SourceRecord* source, Dtype dtype,
                                   std::vector<std::string>* notes) {
  constexpr char kNeeds[] = "a GGUF file needs a model description and a tokenizer";
  NWC_TRY(file.model_status().with_context(kNeeds));
  NWC_TRY(file.tokenizer_status().with_context(kNeeds));
  const ModelRecord& model = *file.model();
  NWC_ASSIGN_OR_RETURN(const GgufForm form, find_gguf_form(model));
  notes->insert(notes->end(), form.notes.begin(), form.notes.end());
  GgufPlan plan;
  add_gguf_model(model, *form.architecture, &plan.metadata);
  if (model.eos_ids.size() > kMaxGgufEndTokens) {
    notes->push_back("left out: " + std::to_string(model.eos_ids.size() - kMaxGgufEndTokens) + " of " +
                     std::to_string(model.eos_ids.size()) + " tokens that end a text; GGUF names three");
  }
  plan.metadata.add_u32("general.file_type", file_type(dtype));
  NWC_TRY(add_gguf_tokenizer(*file.tokenizer(), model.vocab_size, &plan.metadata));
  if (source != nullptr) {
    const auto name = file.provenance().find("source");
    add_gguf_extras(*source, *file.tokenizer(), name == file.provenance().end() ? "" : name->second, &plan.metadata,
                    notes);
  }
  std::vector<bool> used(file.tensors().size());
  for (const GgufPlace& place : form.tensors) NWC_TRY(add_place(file, place, dtype, &used, &plan));
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) note_left_out(file.tensors()[i].name, notes);
  }
  for (const std::string& name : form.factors) plan.add({name}, Dtype::kF32, {rope_factors(model, name).size()}, {});
  return plan;
}

// The type that a tensor gets: of matrices `asked`, or what the source had; F16 holds what was quantized.
Dtype output_dtype(const GgufTensor& stored, const TensorRecord& record, std::optional<Dtype> asked) {
  if (!dtype_is_float(record.dtype)) return record.dtype;
  // Biases of experts are matrices, and routers are small: llama.cpp has them in F32.
  const bool kept = stored.shape.size() < 2 || stored.name.ends_with(".bias") ||
                    stored.name.find(".ffn_gate_inp") != std::string::npos;
  if (kept) return stored.type->quantized() ? Dtype::kF32 : stored.type->dtype;
  if (asked) return *asked;
  return stored.type->quantized() ? Dtype::kF16 : stored.type->dtype;
}

/// For each tensor of the source: where its elements are in the compressed file, and how its rows lie there.
struct Origin {
  std::vector<Segment> segments;
  uint32_t rotary_head_dim = 0;
};
using Origins = std::vector<Origin>;

/// What reading the source has made of its tensors, turned round. model: nullptr: nothing.
Result<Origins> find_origins(const NwcFile& file, const GgufFile& source, const ModelRecord* model) {
  NWC_ASSIGN_OR_RETURN(const std::vector<GgufListed> listed, list_gguf_tensors(source, model));
  struct Piece {
    uint64_t at;  ///< in the source's tensor
    Segment segment;
  };
  std::vector<std::vector<Piece>> pieces(source.tensors().size());
  Origins origins(source.tensors().size());
  for (const GgufListed& tensor : listed) {
    const std::optional<size_t> index = file.find(tensor.name);
    if (!index) continue;
    if (file.tensors()[*index].shape != tensor.shape) {
      return corrupt("SOURCE section: tensor \"" + tensor.name + "\" has another shape than in section TENSORS");
    }
    uint64_t first = 0;
    for (const GgufPiece& piece : tensor.pieces) {
      pieces[piece.stored].push_back({piece.first, {*index, first, piece.count}});
      origins[piece.stored].rotary_head_dim = tensor.rotary_head_dim;
      first += piece.count;
    }
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::sort(pieces[i].begin(), pieces[i].end(), [](const Piece& a, const Piece& b) { return a.at < b.at; });
    uint64_t at = 0, elements = 1;
    for (const uint64_t d : source.tensors()[i].shape) elements *= d;
    for (const Piece& piece : pieces[i]) {
      if (piece.at != at) break;
      origins[i].segments.push_back(piece.segment);
      at += piece.segment.count;
    }
    if (at != elements) origins[i].segments.clear();  // the compressed file does not hold all of it
  }
  return origins;
}

// From the source's own header. A model that could be run has its tensors under the names of its description, with the
// rows of q_proj and k_proj in Hugging Face's order where these names are; others are as the source had them.
Result<GgufPlan> plan_from_header(const NwcFile& file, const SourceRecord& source, std::optional<Dtype> dtype,
                                  std::vector<std::string>* notes) {
  NWC_ASSIGN_OR_RETURN(const GgufFile header, open_kept_gguf(source));
  ModelRecord model;  // of one that cannot be read, Llama's names
  model.block().head_dim = kept_head_dim(header);
  if (file.model()) model = *file.model();
  NWC_ASSIGN_OR_RETURN(const Origins plain, find_origins(file, header, nullptr));
  Result<Origins> of_model = find_origins(file, header, &model);
  if (of_model.status().code() == StatusCode::kUnsupported) of_model = plain;  // not the tensors of this model
  NWC_TRY(of_model.status());
  GgufPlan plan;
  std::vector<bool> used(file.tensors().size());
  std::map<Dtype, uint64_t> weights_of;
  for (size_t i = 0; i < header.tensors().size(); ++i) {
    const GgufTensor& stored = header.tensors()[i];
    const Origin& origin = (*of_model)[i].segments.empty() ? plain[i] : (*of_model)[i];
    if (origin.segments.empty() && file.model() && !rope_factors(*file.model(), stored.name).empty()) {
      plan.add({stored.name}, Dtype::kF32, {rope_factors(*file.model(), stored.name).size()}, {});
      continue;
    }
    if (origin.segments.empty()) {
      notes->push_back("left out: tensor \"" + stored.name + "\", which the compressed file does not hold");
      continue;
    }
    const Dtype type = output_dtype(stored, file.tensors()[origin.segments.front().record], dtype);
    GgufPlace place{stored.name};
    place.rotary_head_dim = origin.rotary_head_dim;
    std::optional<size_t> last;
    for (const Segment& segment : origin.segments) {
      used[segment.record] = true;
      if (last != segment.record) plan.weights += file.tensors()[segment.record].num_elements();
      weights_of[type] += segment.count;
      last = segment.record;
    }
    plan.add(std::move(place), type, stored.shape, origin.segments);
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) note_left_out(file.tensors()[i].name, notes);
  }
  const auto most = std::max_element(weights_of.begin(), weights_of.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  const uint32_t type = file_type(most == weights_of.end() ? Dtype::kF16 : most->first);
  NWC_ASSIGN_OR_RETURN(plan.metadata, copy_gguf_metadata(header, type));
  return plan;
}

/// Decodes what a tensor is made of.
Status decode_segments(const NwcFile& file, TensorOutput& output, std::span<const Segment> segments, Dtype type,
                       std::vector<uint8_t>* bytes) {
  bytes->clear();
  const uint64_t size = dtype_size(type);
  std::vector<uint8_t> whole;
  std::optional<size_t> decoded;
  for (const Segment& segment : segments) {
    const TensorRecord& record = file.tensors()[segment.record];
    if (segments.size() == 1 && segment.count == record.num_elements())
      return output.decode(segment.record, type, bytes);
    if (decoded != segment.record) NWC_TRY(output.decode(segment.record, type, &whole));
    decoded = segment.record;
    const auto begin = whole.begin() + static_cast<ptrdiff_t>(segment.first * size);
    bytes->insert(bytes->end(), begin, begin + static_cast<ptrdiff_t>(segment.count * size));
  }
  return {};
}

}  // namespace

Status decompress_to_gguf(const NwcFile& file, Decoder& decoder, const SourceRecord* source, std::optional<Dtype> dtype,
                          const std::string& path, const Progress& progress, std::vector<std::string>* notes) {
  if (dtype) NWC_TRY(check_output_dtype(*dtype));
  const bool has_header = source != nullptr && source->kind == SourceKind::kGguf;
  NWC_ASSIGN_OR_RETURN(const GgufPlan plan, has_header
                                                ? plan_from_header(file, *source, dtype, notes)
                                                : plan_from_records(file, source, dtype.value_or(Dtype::kF16), notes));
  TensorOutput output(file, decoder, plan.weights, progress);
  return write_gguf(path, plan.metadata, plan.tensors, [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    const std::vector<Segment>& segments = plan.segments[i];
    if (segments.empty()) {
      const std::vector<float> factors = rope_factors(*file.model(), plan.tensors[i].name);
      const auto* data = reinterpret_cast<const uint8_t*>(factors.data());
      bytes->assign(data, data + factors.size() * sizeof(float));
      return {};
    }
    const Dtype type = plan.tensors[i].dtype;
    NWC_TRY(decode_segments(file, output, segments, type, bytes));
    const Dtype before = file.tensors()[segments.front().record].dtype;
    if (type == Dtype::kF16 && before != Dtype::kF16 && !all_finite_f16(*bytes)) {
      return unsupported("a weight does not fit half floats; choose F32 or BF16");
    }
    if (plan.places[i].plus_one && type == Dtype::kF32) add_one(*bytes);
    const uint32_t head_dim = plan.places[i].rotary_head_dim;
    const std::vector<uint64_t>& shape = plan.tensors[i].shape;
    const bool whole_heads = head_dim != 0 && shape.size() <= 2 && shape[0] % head_dim == 0;
    if (whole_heads && !bytes->empty()) to_gguf_rotary_order(head_dim, bytes->size() / shape[0], *bytes);
    return {};
  });
}

}  // namespace nwc
