#include "trainer/inspect/gguf_plan.h"

#include <algorithm>

#include "trainer/data/gguf_form.h"
#include "trainer/data/gguf_from_hf.h"
#include "trainer/data/gguf_kept.h"
#include "trainer/data/gguf_listing.h"
#include "trainer/data/gguf_model.h"
#include "trainer/data/gguf_tokenizer_write.h"

namespace nwc {
namespace {

// llama.cpp's number for a file of mostly this type.
uint32_t file_type(Dtype dtype) {
  return find_gguf_file_type(dtype == Dtype::kF32 ? "f32" : dtype == Dtype::kF16 ? "f16" : "bf16")->id;
}

void add(GgufPlace place, Dtype dtype, std::vector<uint64_t> shape, std::vector<GgufSegment> from, GgufPlan* plan) {
  plan->tensors.push_back({place.name, find_ggml_type(dtype), std::move(shape)});
  plan->segments.push_back(std::move(from));
  plan->places.push_back(std::move(place));
}

void note_left_out(const std::string& tensor, std::vector<std::string>* notes) {
  notes->push_back("left out: tensor \"" + tensor + "\", which GGUF's names for this architecture do not include");
}

/// Adds a tensor that is made of the file's; one that they do not have is left out.
Status add_place(const NwcFile& file, const GgufPlace& place, Dtype dtype, std::vector<bool>* used, GgufPlan* plan) {
  std::vector<GgufSegment> segments;
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
  add(place, matrix ? dtype : Dtype::kF32, std::move(shape), std::move(segments), plan);
  return {};
}

// From hyperparameters and tokenizer, with GGUF's names for the tensors.
Result<GgufPlan> plan_from_records(const NwcFile& file, const SourceRecord* source, const GgufFileType& type,
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
  plan.metadata.add_u32("general.file_type", type.id);
  if (type.quantized()) plan.metadata.add_u32("general.quantization_version", kGgufQuantizationVersion);
  NWC_TRY(add_gguf_tokenizer(*file.tokenizer(), model.vocab_size, &plan.metadata));
  if (source != nullptr) {
    const auto name = file.provenance().find("source");
    add_gguf_extras(*source, *file.tokenizer(), name == file.provenance().end() ? "" : name->second, &plan.metadata,
                    notes);
  }
  std::vector<bool> used(file.tensors().size());
  for (const GgufPlace& place : form.tensors) NWC_TRY(add_place(file, place, type.plain_dtype(), &used, &plan));
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) note_left_out(file.tensors()[i].name, notes);
  }
  for (const std::string& name : form.factors) add({name}, Dtype::kF32, {rope_factors(model, name).size()}, {}, &plan);
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
  std::vector<GgufSegment> segments;
  uint32_t rotary_head_dim = 0;
};
using Origins = std::vector<Origin>;

/// What reading the source has made of its tensors, turned round. model: nullptr: nothing.
Result<Origins> find_origins(const NwcFile& file, const GgufFile& source, const ModelRecord* model) {
  NWC_ASSIGN_OR_RETURN(const std::vector<GgufListed> listed, list_gguf_tensors(source, model));
  struct Piece {
    uint64_t at;  ///< in the source's tensor
    GgufSegment segment;
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
Result<GgufPlan> plan_from_header(const NwcFile& file, const SourceRecord& source, const GgufFileType* type,
                                  std::vector<std::string>* notes) {
  NWC_ASSIGN_OR_RETURN(const GgufFile header, open_kept_gguf(source));
  ModelRecord model;  // of one that cannot be read, Llama's names
  model.block().head_dim = kept_head_dim(header);
  if (file.model()) model = *file.model();
  NWC_ASSIGN_OR_RETURN(const Origins plain, find_origins(file, header, nullptr));
  Result<Origins> of_model = find_origins(file, header, &model);
  if (of_model.status().code() == StatusCode::kUnsupported) of_model = plain;  // not the tensors of this model
  NWC_TRY(of_model.status());
  std::optional<Dtype> asked;
  if (type != nullptr) asked = type->plain_dtype();
  GgufPlan plan;
  std::vector<bool> used(file.tensors().size());
  std::map<Dtype, uint64_t> weights_of;
  for (size_t i = 0; i < header.tensors().size(); ++i) {
    const GgufTensor& stored = header.tensors()[i];
    const Origin& origin = (*of_model)[i].segments.empty() ? plain[i] : (*of_model)[i];
    if (origin.segments.empty() && file.model() && !rope_factors(*file.model(), stored.name).empty()) {
      add({stored.name}, Dtype::kF32, {rope_factors(*file.model(), stored.name).size()}, {}, &plan);
      continue;
    }
    if (origin.segments.empty()) {
      notes->push_back("left out: tensor \"" + stored.name + "\", which the compressed file does not hold");
      continue;
    }
    const Dtype dtype = output_dtype(stored, file.tensors()[origin.segments.front().record], asked);
    GgufPlace place{stored.name};
    place.rotary_head_dim = origin.rotary_head_dim;
    std::optional<size_t> last;
    for (const GgufSegment& segment : origin.segments) {
      used[segment.record] = true;
      if (last != segment.record) plan.weights += file.tensors()[segment.record].num_elements();
      weights_of[dtype] += segment.count;
      last = segment.record;
    }
    add(std::move(place), dtype, stored.shape, origin.segments, &plan);
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) note_left_out(file.tensors()[i].name, notes);
  }
  const auto most = std::max_element(weights_of.begin(), weights_of.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  const bool quantized = type != nullptr && type->quantized();
  const uint32_t id = quantized ? type->id : file_type(most == weights_of.end() ? Dtype::kF16 : most->first);
  NWC_ASSIGN_OR_RETURN(plan.metadata, copy_gguf_metadata(header, id, quantized));
  return plan;
}

}  // namespace

Result<GgufPlan> plan_gguf(const NwcFile& file, const SourceRecord* source, const GgufFileType* type,
                           std::vector<std::string>* notes) {
  const bool has_header = source != nullptr && source->kind == SourceKind::kGguf;
  const GgufFileType& or_f16 = type != nullptr ? *type : *find_gguf_file_type("f16");
  NWC_ASSIGN_OR_RETURN(GgufPlan plan, has_header ? plan_from_header(file, *source, type, notes)
                                                 : plan_from_records(file, source, or_f16, notes));
  if (type == nullptr || !type->quantized()) return plan;
  std::vector<uint64_t> sizes;
  NWC_ASSIGN_OR_RETURN(std::vector<uint8_t> header, make_gguf_header(plan.metadata, plan.tensors, &sizes));
  NWC_ASSIGN_OR_RETURN(const GgufFile written, GgufFile::open_header(make_owned_reader(std::move(header))));
  NWC_TRY(choose_gguf_types(*type, written, plan.tensors, notes));
  return plan;
}

}  // namespace nwc
