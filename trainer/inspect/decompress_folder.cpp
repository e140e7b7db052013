#include <algorithm>

#include "trainer/data/atomic_folder.h"
#include "trainer/data/gguf_kept.h"
#include "trainer/data/hf_made.h"
#include "trainer/data/hf_write.h"
#include "trainer/inspect/decompress.h"
#include "trainer/inspect/tensor_output.h"

namespace nwc {
namespace {

constexpr char kWeights[] = "model.safetensors";

Bytes bytes_of(const std::string& text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

// The float type that most weights are written as.
Dtype main_dtype(const NwcFile& file, std::optional<Dtype> dtype) {
  if (dtype) return *dtype;
  std::map<Dtype, uint64_t> weights;
  for (const TensorRecord& r : file.tensors()) {
    if (dtype_is_float(r.dtype)) weights[r.dtype] += r.num_elements();
  }
  const auto most = std::max_element(weights.begin(), weights.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == weights.end() ? Dtype::kF32 : most->first;
}

/// FP8 checkpoints with scales for blocks: their weights were multiplied out when they were read.
bool scales_are_gone(const NwcFile& file) {
  return std::none_of(file.tensors().begin(), file.tensors().end(), [](const TensorRecord& r) {
    return r.name.ends_with("_scale_inv") || r.name.ends_with("_scale");
  });
}

Status write_kept_files(const NwcFile& file, const SourceRecord& source, Dtype dtype, const AtomicFolder& folder,
                        std::vector<std::string>* notes) {
  for (const SourceFile& kept : source.files) {
    if (kept.name == kWeights || kept.name == std::string(kWeights) + ".index.json") continue;
    if (kept.name != "config.json") {
      NWC_TRY(folder.write(kept.name, kept.bytes));
      continue;
    }
    const std::string before(kept.bytes.begin(), kept.bytes.end());
    const bool dequantized = hf_quant_method(before) == "fp8" && scales_are_gone(file);
    const Result<std::string> after = adapt_hf_config(before, dtype, dequantized);
    if (!after.ok())
      notes->push_back("config.json is as it was, whatever the weights' type: " + after.status().message());
    NWC_TRY(folder.write(kept.name, after.ok() ? bytes_of(*after) : Bytes(kept.bytes)));
  }
  if (source.find("config.json") == nullptr) notes->push_back("there is no config.json: the source had none");
  return {};
}

// What is known of special tokens and chat templates.
TokenizerConfig tokenizer_config(const NwcFile& file, const SourceRecord* source, std::vector<std::string>* notes) {
  TokenizerConfig config;
  if (source != nullptr) {
    const auto read = [&]() -> Result<TokenizerConfig> {
      NWC_ASSIGN_OR_RETURN(const GgufFile header, open_kept_gguf(*source));
      return read_gguf_tokenizer_config(header);
    };
    Result<TokenizerConfig> known = read();
    if (known.ok()) {
      config = std::move(known).value();
    } else {
      notes->push_back("special tokens and chat template are not known: " + known.status().message());
    }
  }
  const TokenizerRecord& tokenizer = *file.tokenizer();
  if (config.bos_id == UINT32_MAX) config.bos_id = tokenizer.bos_id;
  if (config.unk_id == UINT32_MAX) config.unk_id = tokenizer.unk_id;
  if (config.eos_id == UINT32_MAX && file.model() && !file.model()->eos_ids.empty()) {
    config.eos_id = file.model()->eos_ids[0];
  }
  return config;
}

/// Writes config.json where a family of transformers describes the model, and returns the form of its tensors.
Result<std::unordered_map<std::string, HeldForm>> write_made_config(const NwcFile& file, const SourceRecord* source,
                                                                    Dtype dtype, const AtomicFolder& folder,
                                                                    std::vector<std::string>* notes) {
  Status why = file.model_status();
  if (why.ok()) {
    Result<HfMade> made = find_hf_family(*file.model());
    if (made.ok()) {
      const TokenizerRecord* tokenizer = file.tokenizer() ? &*file.tokenizer() : nullptr;
      const std::string config = make_hf_config(*file.model(), *made->family, tokenizer, dtype);
      NWC_TRY(folder.write("config.json", bytes_of(config)));
      return std::move(made->tensors);
    }
    why = made.status();
  }
  notes->push_back("config.json cannot be made: " + why.message());
  if (source != nullptr) notes->push_back("the tensors keep the names of the GGUF file");
  return std::unordered_map<std::string, HeldForm>();
}

// source: of a GGUF file, or nullptr.
Status write_made_files(const NwcFile& file, const SourceRecord* source, const AtomicFolder& folder,
                        std::vector<std::string>* notes) {
  if (!file.tokenizer()) {
    notes->push_back("tokenizer.json cannot be made: " + file.tokenizer_status().message());
    return {};
  }
  const Result<std::string> tokenizer = make_hf_tokenizer(*file.tokenizer());
  if (!tokenizer.ok()) {
    notes->push_back("tokenizer.json cannot be made: " + tokenizer.status().message());
    return {};
  }
  const TokenizerConfig config = tokenizer_config(file, source, notes);
  const uint32_t max_positions = file.model() ? file.model()->max_positions : 0;
  NWC_TRY(folder.write("tokenizer.json", bytes_of(*tokenizer)));
  NWC_TRY(folder.write("tokenizer_config.json",
                       bytes_of(make_hf_tokenizer_config(*file.tokenizer(), config, max_positions))));
  if (!file.model()) return {};
  return folder.write("generation_config.json", bytes_of(make_hf_generation_config(*file.model(), config)));
}

}  // namespace

Status decompress_to_folder(const NwcFile& file, Decoder& decoder, const SourceRecord* source,
                            std::optional<Dtype> dtype, const std::string& path, const Progress& progress,
                            std::vector<std::string>* notes, uint64_t max_shard_bytes) {
  if (dtype) NWC_TRY(check_output_dtype(*dtype));
  NWC_ASSIGN_OR_RETURN(AtomicFolder folder, AtomicFolder::create(path));
  const Dtype type = main_dtype(file, dtype);
  std::unordered_map<std::string, HeldForm> forms;
  if (source != nullptr && source->kind == SourceKind::kHuggingFace) {
    NWC_TRY(write_kept_files(file, *source, type, folder, notes));
    const SourceFile* config = source->find("config.json");
    if (config != nullptr && file.model()) forms = held_forms(*file.model(), config->bytes);
  } else {
    NWC_ASSIGN_OR_RETURN(forms, write_made_config(file, source, type, folder, notes));
    NWC_TRY(write_made_files(file, source, folder, notes));
  }
  NWC_TRY(decompress_model(file, decoder, dtype, folder.file(kWeights), progress, forms, max_shard_bytes));
  return folder.commit();
}

}  // namespace nwc
