#include <algorithm>
#include <unordered_set>

#include "trainer/data/gguf_form.h"
#include "trainer/data/gguf_from_hf.h"
#include "trainer/data/gguf_kept.h"
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

// What a GGUF file holds.
struct GgufPlan {
  GgufMetadata metadata;
  std::vector<SafetensorsTensor> tensors;
  /// For each: where it comes from; none for the rotary factors, which the model description has.
  std::vector<std::optional<size_t>> records;
  std::vector<GgufPlace> places;  ///< for each: the form that it gets
  uint64_t weights = 0;

  void add(const GgufPlace& place, Dtype dtype, const std::vector<uint64_t>& shape, std::optional<size_t> record) {
    SafetensorsTensor& t = tensors.emplace_back();
    t.name = place.name;
    t.dtype = dtype;
    t.shape = shape;
    records.push_back(record);
    places.push_back(place);
  }
};

// llama.cpp's enum of what most of a file is stored as.
uint32_t file_type(Dtype dtype) { return dtype == Dtype::kF32 ? 0 : dtype == Dtype::kF16 ? 1 : 32; }

void note_left_out(const std::string& tensor, std::vector<std::string>* notes) {
  notes->push_back("left out: tensor \"" + tensor + "\", which GGUF's names for this architecture do not include");
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
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorRecord& record = file.tensors()[i];
    const auto place = form.tensors.find(record.name);
    if (place == form.tensors.end() || !dtype_is_float(record.dtype)) {
      note_left_out(record.name, notes);
      continue;
    }
    plan.add(place->second, record.shape.size() > 1 ? dtype : Dtype::kF32, record.shape, i);
    plan.weights += record.num_elements();
  }
  for (const std::string& name : form.factors)
    plan.add({name}, Dtype::kF32, {rope_factors(model, name).size()}, std::nullopt);
  return plan;
}

// The type that a tensor gets: of matrices `asked`, or what the source had; F16 holds what was quantized.
Dtype output_dtype(const GgufTensor& stored, const TensorRecord& record, std::optional<Dtype> asked) {
  if (!dtype_is_float(record.dtype)) return record.dtype;
  if (stored.shape.size() < 2) return stored.type->quantized() ? Dtype::kF32 : record.dtype;
  if (asked) return *asked;
  return stored.type->quantized() ? Dtype::kF16 : stored.type->dtype;
}

// From the source's own header. A model that could be run has its tensors under Hugging Face's names, with the rows of
// q_proj and k_proj in Hugging Face's order; others are as the source had them.
Result<GgufPlan> plan_from_header(const NwcFile& file, const SourceRecord& source, std::optional<Dtype> dtype,
                                  std::vector<std::string>* notes) {
  NWC_ASSIGN_OR_RETURN(const std::vector<GgufFile> headers, open_kept_gguf(source));
  GgufPlan plan;
  std::unordered_set<size_t> taken;
  std::map<Dtype, uint64_t> weights_of;
  for (const GgufFile& header : headers) {
    for (const GgufTensor& stored : header.tensors()) {
      const std::string translated = translate_gguf_name(stored.name);
      std::optional<size_t> index = file.find(translated);
      const bool renamed = index && translated != stored.name;
      if (!index) index = file.find(stored.name);
      if (!index && file.model() && !rope_factors(*file.model(), stored.name).empty()) {
        plan.add({stored.name}, Dtype::kF32, {rope_factors(*file.model(), stored.name).size()}, std::nullopt);
        continue;
      }
      if (!index || !taken.insert(*index).second) {
        notes->push_back("left out: tensor \"" + stored.name + "\", which the compressed file does not hold");
        continue;
      }
      const TensorRecord& record = file.tensors()[*index];
      if (record.shape != stored.shape) {
        return corrupt("SOURCE section: tensor \"" + stored.name + "\" has another shape than in section TENSORS");
      }
      uint32_t head_dim = 0;
      if (renamed && is_rotary_projection(translated)) {
        head_dim = file.model() ? file.model()->block().head_dim : kept_head_dim(headers.front());
      }
      const Dtype type = output_dtype(stored, record, dtype);
      plan.add({stored.name, false, head_dim}, type, record.shape, index);
      plan.weights += record.num_elements();
      weights_of[type] += record.num_elements();
    }
  }
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    if (!taken.contains(i)) note_left_out(file.tensors()[i].name, notes);
  }
  const auto most = std::max_element(weights_of.begin(), weights_of.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  const uint32_t type = file_type(most == weights_of.end() ? Dtype::kF16 : most->first);
  NWC_ASSIGN_OR_RETURN(plan.metadata, copy_gguf_metadata(headers.front(), type));
  return plan;
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
    if (!plan.records[i]) {
      const std::vector<float> factors = rope_factors(*file.model(), plan.tensors[i].name);
      const auto* data = reinterpret_cast<const uint8_t*>(factors.data());
      bytes->assign(data, data + factors.size() * sizeof(float));
      return {};
    }
    const TensorRecord& record = file.tensors()[*plan.records[i]];
    const Dtype type = plan.tensors[i].dtype;
    NWC_TRY(output.decode(*plan.records[i], type, bytes));
    if (type == Dtype::kF16 && record.dtype != Dtype::kF16 && !all_finite_f16(*bytes)) {
      return unsupported("a weight does not fit half floats; choose F32 or BF16");
    }
    if (plan.places[i].plus_one && type == Dtype::kF32) add_one(*bytes);
    const uint32_t head_dim = plan.places[i].rotary_head_dim;
    const bool whole_heads = head_dim != 0 && record.shape.size() <= 2 && record.shape[0] % head_dim == 0;
    if (whole_heads && !bytes->empty()) to_gguf_rotary_order(head_dim, bytes->size() / record.shape[0], *bytes);
    return {};
  });
}

}  // namespace nwc
