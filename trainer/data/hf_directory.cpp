#include "trainer/data/hf_directory.h"

#include <unordered_map>

#include "trainer/data/hf_config.h"
#include "trainer/data/hf_encoder_files.h"
#include "trainer/data/hf_family.h"
#include "trainer/data/hf_shards.h"
#include "trainer/data/hf_tokenizer.h"
#include "trainer/data/hf_tokenizer_config.h"
#include "trainer/data/safetensors_source.h"
#include "trainer/data/source_layout.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

// Weights can be coded whatever the files beside them say: what cannot be used of these is a note.
Status to_note(const Status& status, NoteKind kind, SafetensorsSource* source) {
  source->add_note({kind, "", status.message()});
  return {};
}

// Checkpoints of one family differ in what stands in front of their names: those of a multimodal model have the
// language model below another one, and those of a bare model leave out the first word. The embedding decides, of
// images that of patches.
void settle_names(const SafetensorsSource& source, ModelRecord* model) {
  const std::string embedding = model->tensor_name(model->ends.encoder.of_images() ? Role::kPatch : Role::kEmbedding);
  const size_t dot = embedding.find('.');
  const std::string first = embedding.substr(0, dot + 1), rest = embedding.substr(dot + 1);
  const auto rename = [&](const std::string& prefix, const std::string& head_prefix) {
    std::vector<TensorName> names = model->names.empty() ? llama_names() : model->names;
    for (TensorName& name : names) {
      if (name.pattern.compare(0, first.size(), first) == 0) {
        name.pattern = prefix + name.pattern.substr(first.size());
      } else {
        name.pattern = head_prefix + name.pattern;
      }
    }
    model->names = std::move(names);
  };
  if (!source.find(embedding)) {
    for (const auto& [prefix, head] :
         {std::pair<std::string, std::string>{"language_model." + first, "language_model."},
          {first + "language_model.", ""},
          {"", ""}}) {
      if (!source.find(prefix + rest)) continue;
      rename(prefix, head);
      break;
    }
  }
  // The head has two names in the files of some families.
  const std::string head = model->tensor_name(Role::kHead);
  for (const char* other : {"lm_head.weight", "embed_out.weight"}) {
    if (source.find(head) || !source.find(other) || model->names.empty()) continue;
    for (TensorName& name : model->names) {
      if (name.role == Role::kHead) name.pattern = other;
    }
  }
}

// A tensor that has all experts of a layer is taken for as many tensors as there are experts.
Status settle_experts(const Family& family, const ModelRecord& model, SafetensorsSource* source) {
  for (const TensorName& name : model.names) {
    if (!is_stacked(family.form(name.role))) continue;
    for (uint32_t l = 0; l < model.num_layers; ++l) {
      const std::optional<size_t> whole = source->find(stacked_name(name.pattern, l));
      if (!whole) continue;  // resolving the layout says so
      std::vector<std::string> names;
      for (uint32_t e = 0; e < model.block(l).experts.num_experts; ++e)
        names.push_back(model.tensor_name(name.role, l, e));
      NWC_TRY(source->split_tensor(*whole, names));
    }
  }
  return {};
}

// Tensors that a family's checkpoints hold in another form.
Status settle_forms(const Family& family, const ModelRecord& model, SafetensorsSource* source) {
  std::unordered_map<std::string, size_t> index_of;
  for (const TensorName& name : model.names) {
    const SourceForm form = family.form(name.role);
    if (form == SourceForm::kPlain || form == SourceForm::kStacked) continue;
    if (index_of.empty()) {
      for (size_t i = 0; i < source->tensors().size(); ++i) index_of.emplace(source->tensors()[i].name, i);
    }
    for (uint32_t l = 0; l < model.num_layers; ++l) {
      for (uint32_t e = 0; e < (of_expert(name.role) ? model.block(l).experts.num_experts : 1); ++e) {
        const auto tensor = index_of.find(model.tensor_name(name.role, l, e));
        if (tensor == index_of.end()) continue;
        // As MXFP4, GPT-OSS's weights lie as others' do, but for the pairs.
        const bool mxfp4 = source->tensors()[tensor->second].stored_type == "MXFP4";
        const SourceForm stored = !mxfp4                              ? form
                                  : form == SourceForm::kStackedPairs ? SourceForm::kStackedPairRows
                                                                      : SourceForm::kStacked;
        if (stored != SourceForm::kStacked) NWC_TRY(source->set_form(tensor->second, stored, model.block(l).num_heads));
      }
    }
  }
  return {};
}

// A checkpoint may tie the head to the embedding and hold a head all the same: a copy, or one that was trained after
// all. What the files hold counts, as in transformers.
Status settle_head(SafetensorsSource* source, ModelRecord* model) {
  const std::string embedding_name = model->tensor_name(Role::kEmbedding), head_name = model->tensor_name(Role::kHead);
  const std::optional<size_t> embedding = source->find(embedding_name), head = source->find(head_name);
  if (!model->tied_embeddings || !head) return {};
  if (!embedding) {  // of two names for one tensor, some writers keep the other one
    source->rename_tensor(head_name, embedding_name);
    return {};
  }
  NWC_ASSIGN_OR_RETURN(const bool same, source->same_content(*embedding, *head));
  if (same) {
    source->drop_tensor(head_name);
    return {};
  }
  model->tied_embeddings = false;
  source->add_note({NoteKind::kRepaired, "head",
                    "config.json: \"tie_word_embeddings\" is true, but " + head_name + " is not the embedding; " +
                        head_name + " is used"});
  return {};
}

// Weights in FP8 with a scale for each block become F32. What has no scale is not what it seems: no model then.
Status settle_fp8(SafetensorsSource* source, Bytes config) {
  const auto blocks = find_fp8_blocks(config);
  if (!blocks) return {};
  NWC_ASSIGN_OR_RETURN(const size_t count, source->multiply_block_scales((*blocks)[0], (*blocks)[1]));
  if (count != 0) {
    source->add_note({NoteKind::kRepaired, "quantization",
                      "FP8 weights with scales of blocks are multiplied out, " + std::to_string(count) + " tensors"});
  }
  for (const SourceTensor& tensor : source->tensors()) {
    if (tensor.dtype == Dtype::kF8E4M3) {
      return unsupported(quote_tensor(tensor.name) + " is stored as FP8 without scales of its blocks");
    }
  }
  return {};
}

// Experts' weights as MXFP4 (GPT-OSS) become BF16.
Status settle_mxfp4(SafetensorsSource* source, Bytes config) {
  if (!has_mxfp4_weights(config)) return {};
  NWC_ASSIGN_OR_RETURN(const size_t count, source->join_mxfp4());
  if (count != 0) {
    source->add_note(
        {NoteKind::kRepaired, "quantization",
         "MXFP4 weights are read as BF16, which holds them exactly, " + std::to_string(count) + " tensors"});
  }
  return {};
}

Status add_model(const HfFolder& folder, SafetensorsSource* source, std::optional<uint32_t>* bos_id) {
  constexpr NoteKind kLeftOut = NoteKind::kModelLeftOut;
  if (!folder.has("config.json")) {
    source->add_note({kLeftOut, "", "there is no config.json"});
    return {};
  }
  Result<std::vector<uint8_t>> config = folder.load("config.json");
  if (!config.ok()) return to_note(config.status(), kLeftOut, source);
  for (const auto& settle : {settle_fp8, settle_mxfp4}) {
    const Status quantized = settle(source, *config);
    if (!quantized.ok()) return to_note(quantized, kLeftOut, source);
  }
  Result<std::vector<uint8_t>> generation = std::vector<uint8_t>();
  const bool has_generation = folder.has("generation_config.json");
  if (has_generation) generation = folder.load("generation_config.json");
  if (!generation.ok()) {
    source->add_note({NoteKind::kRepaired, "generation_config", generation.status().message() + "; it is ignored"});
  }
  const Bytes generation_bytes = generation.ok() ? Bytes(*generation) : Bytes();
  Result<HfConfig> parsed = parse_hf_config(*config, has_generation && generation.ok() ? &generation_bytes : nullptr);
  if (!parsed.ok()) return to_note(parsed.status(), kLeftOut, source);

  settle_names(*source, &parsed->model);
  const Status encoder = settle_encoder(folder, source, &parsed->model);
  if (!encoder.ok()) return to_note(encoder, kLeftOut, source);
  NWC_TRY(settle_head(source, &parsed->model));
  SafetensorsSource::Listing before = source->listing();
  Status tensors = settle_experts(*parsed->family, parsed->model, source);
  if (tensors.ok()) tensors = settle_forms(*parsed->family, parsed->model, source);
  if (tensors.ok()) tensors = resolve_source_layout(parsed->model, source->tensors()).status();
  if (!tensors.ok()) source->restore(std::move(before));  // without a description nobody could turn them back
  if (tensors.code() == StatusCode::kUnsupported) return to_note(tensors, kLeftOut, source);
  NWC_TRY(tensors);
  for (SourceNote& note : parsed->notes) source->add_note(std::move(note));
  if (auto note = note_of_further_layers(parsed->model, source->tensors(), "config.json")) {
    source->add_note(std::move(*note));
  }
  *bos_id = parsed->bos_id;
  source->set_model(std::move(parsed->model));
  return {};
}

// Says which other form of a tokenizer the folder has.
std::string no_tokenizer_text(const HfFolder& folder) {
  std::string text = "there is no tokenizer.json";
  for (const auto& [name, what] : {std::pair{"tokenizer.model", "a SentencePiece model"},
                                   {"spiece.model", "a SentencePiece model"},
                                   {"sentencepiece.bpe.model", "a SentencePiece model"},
                                   {"tekken.json", "a Tekken vocabulary"},
                                   {"vocab.json", "a vocabulary of the older form"},
                                   {"vocab.txt", "a vocabulary of the older form"}}) {
    if (folder.has(name)) {
      return text + ", only " + name + " (" + what +
             "), which is not read; save_pretrained of the tokenizer in transformers writes a tokenizer.json";
    }
  }
  return text;
}

Status add_tokenizer(const HfFolder& folder, SafetensorsSource* source, std::optional<uint32_t> bos_id) {
  constexpr NoteKind kLeftOut = NoteKind::kTokenizerLeftOut;
  if (!folder.has("tokenizer.json")) {
    source->add_note({kLeftOut, "", no_tokenizer_text(folder)});
    return {};
  }
  const Result<std::vector<uint8_t>> text = folder.load("tokenizer.json");
  if (!text.ok()) return to_note(text.status(), kLeftOut, source);
  SourceNotes notes;
  Result<TokenizerRecord> tokenizer = parse_hf_tokenizer(*text, bos_id, &notes);
  if (!tokenizer.ok()) return to_note(tokenizer.status(), kLeftOut, source);
  if (source->model() && tokenizer->tokens.size() > source->model()->vocab_size) {
    source->add_note({kLeftOut, "",
                      "tokenizer.json has " + std::to_string(tokenizer->tokens.size()) +
                          " tokens, the embedding only " + std::to_string(source->model()->vocab_size)});
    return {};
  }
  if (folder.has("tokenizer_config.json")) {
    const Result<std::vector<uint8_t>> config = folder.load("tokenizer_config.json");
    if (config.ok()) apply_tokenizer_config(*config, &tokenizer.value(), &notes);
  }
  for (SourceNote& note : notes) source->add_note(std::move(note));
  source->set_tokenizer(std::move(tokenizer).value());
  return {};
}

}  // namespace

Result<std::unique_ptr<ModelSource>> open_hf_directory(const std::string& path) {
  const HfFolder folder(path);
  auto source = std::make_unique<SafetensorsSource>();
  source->set_folder(path);
  NWC_TRY(add_hf_tensors(folder, source.get()));
  std::optional<uint32_t> bos_id;
  NWC_TRY(add_model(folder, source.get(), &bos_id));
  NWC_TRY(add_tokenizer(folder, source.get(), bos_id));
  return std::unique_ptr<ModelSource>(std::move(source));
}

}  // namespace nwc
