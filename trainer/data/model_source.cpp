#include "trainer/data/model_source.h"

#include <cmath>
#include <filesystem>

#include "trainer/data/fs_path.h"
#include "trainer/data/gguf_source.h"
#include "trainer/data/gguf_split.h"
#include "trainer/data/hf_directory.h"
#include "trainer/data/safetensors_source.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

Status read_floats(const ModelSource& source, size_t tensor, std::vector<float>* out) {
  const SourceTensor& info = source.tensors()[tensor];
  if (!dtype_is_float(info.dtype)) {
    return invalid_argument(quote_tensor(info.name) + " holds " + dtype_name(info.dtype) +
                            ", which is not converted to floats");
  }
  if (info.dtype == Dtype::kF32) {
    return source.read_raw(tensor, {reinterpret_cast<uint8_t*>(out->data()), out->size() * sizeof(float)});
  }
  const size_t size = dtype_size(info.dtype);
  std::vector<uint8_t> raw(out->size() * size);
  NWC_TRY(source.read_raw(tensor, raw));
  for (size_t i = 0; i < out->size(); ++i) (*out)[i] = load_float(info.dtype, raw.data() + i * size);
  return {};
}

bool has_suffix(const std::string& path, const std::string& suffix) {
  return path.size() >= suffix.size() && path.compare(path.size() - suffix.size(), suffix.size(), suffix) == 0;
}

bool starts_as_gguf(const std::string& path) {
  Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  uint8_t magic[4];
  return reader.ok() && (*reader)->read(0, magic).ok() && std::memcmp(magic, "GGUF", 4) == 0;
}

}  // namespace

const SourceNotes& ModelSource::notes() const {
  static const SourceNotes kNone;
  return kNone;
}

Result<SourceFiles> ModelSource::source_files() const { return SourceFiles(); }

Result<std::vector<float>> ModelSource::read_any_f32(size_t tensor) const {
  if (tensor >= tensors().size()) return invalid_argument("read_f32: no tensor " + std::to_string(tensor));
  std::vector<float> values(static_cast<size_t>(tensors()[tensor].num_elements()));
  NWC_TRY(read_floats(*this, tensor, &values));
  return values;
}

Result<std::vector<float>> ModelSource::read_f32(size_t tensor) const {
  NWC_ASSIGN_OR_RETURN(std::vector<float> values, read_any_f32(tensor));
  const SourceTensor& info = tensors()[tensor];
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    const uint64_t columns = info.shape.empty() ? 1 : info.shape.back();
    return corrupt(quote_tensor(info.name) + " has " + (std::isnan(values[i]) ? "a NaN" : "an infinity") +
                   " at element " + std::to_string(i) + " (row " + std::to_string(i / columns) + ", column " +
                   std::to_string(i % columns) + "); repair the model, a codec cannot");
  }
  return values;
}

std::optional<size_t> ModelSource::find(const std::string& name) const {
  for (size_t i = 0; i < tensors().size(); ++i) {
    if (tensors()[i].name == name) return i;
  }
  return std::nullopt;
}

Result<std::unique_ptr<ModelSource>> open_model_source(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status kind = std::filesystem::status(fs_path(path), error);
  if (!std::filesystem::exists(kind)) {
    return io_error(path + ": " + (error ? error.message() : "no such file or directory"));
  }
  if (std::filesystem::is_directory(kind)) {
    Result<std::unique_ptr<ModelSource>> source = open_hf_directory(path);
    if (!source.ok()) return source.status().with_context(path);
    return source;
  }
  if (!std::filesystem::is_regular_file(kind)) return open_file_reader(path).status();  // says what it is instead
  if (has_suffix(path, ".safetensors")) {
    auto source = std::make_unique<SafetensorsSource>();
    NWC_TRY(source->add_file(path, path));
    source->add_note({NoteKind::kModelLeftOut, "", "a bare safetensors file describes no model"});
    source->add_note({NoteKind::kTokenizerLeftOut, "", "a bare safetensors file holds no tokenizer"});
    return std::unique_ptr<ModelSource>(std::move(source));
  }
  if (has_suffix(path, ".gguf") || starts_as_gguf(path)) {
    Result<GgufFile> file = open_gguf_parts(path);
    if (!file.ok()) return file.status().with_context(path);
    Result<std::unique_ptr<ModelSource>> source = open_gguf(std::move(*file));
    if (!source.ok()) return source.status().with_context(path);
    return source;
  }
  return Status(StatusCode::kUnrecognized, path + ": not a model directory, a .gguf file or a .safetensors file");
}

}  // namespace nwc
