#include "trainer/data/hf_directory.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "trainer/data/hf_config.h"
#include "trainer/data/hf_tokenizer.h"
#include "trainer/data/json_checked.h"
#include "trainer/data/llama_tensors.h"
#include "trainer/data/safetensors_source.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxJsonBytes = 256u << 20;
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

class Directory {
 public:
  explicit Directory(std::string path) : path_(std::move(path)) {}

  std::string file(const std::string& name) const { return (fs::path(path_) / name).string(); }
  bool has(const std::string& name) const {
    std::error_code error;
    return fs::is_regular_file(file(name), error);
  }
  Result<std::vector<uint8_t>> load(const std::string& name) const {
    NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(file(name)));
    if (reader->size() > kMaxJsonBytes) return limit_error(name + ": larger than 256 MiB");
    std::vector<uint8_t> bytes(static_cast<size_t>(reader->size()));
    NWC_TRY(reader->read(0, bytes).with_context(name));
    return bytes;
  }
  /// Names of the *.safetensors files, sorted.
  std::vector<std::string> list_safetensors() const {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(path_, error), end; !error && it != end; it.increment(error)) {
      if (it->path().extension() == ".safetensors") names.push_back(it->path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

Result<std::map<std::string, std::string>> parse_index(Bytes text) {
  NWC_ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(text, kIndexFile));
  const nlohmann::json* map = find_field(json, "weight_map");
  if (map == nullptr || !map->is_object()) return corrupt(std::string(kIndexFile) + ": no weight_map");
  std::map<std::string, std::string> file_of;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) return corrupt(std::string(kIndexFile) + ": " + quote_tensor(tensor) + " has no file name");
    const std::string& name = file.get_ref<const std::string&>();
    if (name.empty() || name == "." || name == ".." || name.find_first_of(std::string("/\\\0", 3)) != name.npos) {
      return corrupt(std::string(kIndexFile) + ": " + quote_tensor(tensor) + " points outside the directory");
    }
    file_of[tensor] = name;
  }
  return file_of;
}

Status add_indexed_files(const Directory& directory, SafetensorsSource* source) {
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> text, directory.load(kIndexFile));
  NWC_ASSIGN_OR_RETURN(const auto file_of, parse_index(text));
  std::set<std::string> files;
  for (const auto& [tensor, file] : file_of) files.insert(file);
  for (const std::string& file : files) NWC_TRY(source->add_file(directory.file(file), file));

  for (size_t i = 0; i < source->tensors().size(); ++i) {
    const std::string& name = source->tensors()[i].name;
    const auto it = file_of.find(name);
    if (it == file_of.end() || it->second != source->file_of(i)) {
      return corrupt(source->file_of(i) + ": " + quote_tensor(name) + " is not where " + kIndexFile + " says");
    }
  }
  if (source->tensors().size() != file_of.size()) {
    for (const auto& [tensor, file] : file_of) {
      if (!source->find(tensor)) return corrupt(file + ": " + quote_tensor(tensor) + " is missing");
    }
  }
  return {};
}

Status add_tensors(const Directory& directory, SafetensorsSource* source) {
  if (directory.has(kSingleFile)) return source->add_file(directory.file(kSingleFile), kSingleFile);
  if (directory.has(kIndexFile)) return add_indexed_files(directory, source);
  const std::vector<std::string> names = directory.list_safetensors();
  if (names.empty()) return Status(StatusCode::kUnrecognized, "no safetensors file in this directory");
  for (const std::string& name : names) NWC_TRY(source->add_file(directory.file(name), name));
  return {};
}

// What the engine cannot run is a note; anything else that is wrong stays an error.
Status unsupported_to_note(const Status& status, NoteKind kind, SafetensorsSource* source) {
  if (status.code() != StatusCode::kUnsupported) return status;
  source->add_note({kind, "", status.message()});
  return {};
}

Status add_model(const Directory& directory, SafetensorsSource* source, std::optional<uint32_t>* bos_id) {
  if (!directory.has("config.json")) {
    source->add_note({NoteKind::kModelLeftOut, "", "there is no config.json"});
    return {};
  }
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> config, directory.load("config.json"));
  std::vector<uint8_t> generation;
  const bool has_generation = directory.has("generation_config.json");
  if (has_generation) {
    NWC_ASSIGN_OR_RETURN(generation, directory.load("generation_config.json"));
  }
  const Bytes generation_bytes(generation);
  Result<HfConfig> parsed = parse_hf_config(config, has_generation ? &generation_bytes : nullptr);
  if (!parsed.ok()) return unsupported_to_note(parsed.status(), NoteKind::kModelLeftOut, source);
  const Status tensors = check_llama_tensors(parsed->model, source->tensors());
  if (!tensors.ok()) return unsupported_to_note(tensors, NoteKind::kModelLeftOut, source);
  *bos_id = parsed->bos_id;
  if (parsed->model.tied_embeddings && source->find("lm_head.weight")) {
    source->drop_tensor("lm_head.weight");
    source->add_note({NoteKind::kTensorsLeftOut, "", "lm_head.weight, which config.json ties to the embedding"});
  }
  source->set_model(std::move(parsed->model));
  return {};
}

Status add_tokenizer(const Directory& directory, SafetensorsSource* source, std::optional<uint32_t> bos_id) {
  if (!directory.has("tokenizer.json")) {
    source->add_note({NoteKind::kTokenizerLeftOut, "", "there is no tokenizer.json"});
    return {};
  }
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> text, directory.load("tokenizer.json"));
  Result<TokenizerRecord> tokenizer = parse_hf_tokenizer(text, bos_id);
  if (!tokenizer.ok()) return unsupported_to_note(tokenizer.status(), NoteKind::kTokenizerLeftOut, source);
  if (source->model() && tokenizer->tokens.size() > source->model()->vocab_size) {
    source->add_note({NoteKind::kTokenizerLeftOut, "",
                      "tokenizer.json has " + std::to_string(tokenizer->tokens.size()) +
                          " tokens, the embedding only " + std::to_string(source->model()->vocab_size)});
    return {};
  }
  source->set_tokenizer(std::move(tokenizer).value());
  return {};
}

}  // namespace

Result<std::unique_ptr<ModelSource>> open_hf_directory(const std::string& path) {
  const Directory directory(path);
  auto source = std::make_unique<SafetensorsSource>();
  source->set_folder(path);
  NWC_TRY(add_tensors(directory, source.get()));
  std::optional<uint32_t> bos_id;
  NWC_TRY(add_model(directory, source.get(), &bos_id));
  NWC_TRY(add_tokenizer(directory, source.get(), bos_id));
  return std::unique_ptr<ModelSource>(std::move(source));
}

}  // namespace nwc
