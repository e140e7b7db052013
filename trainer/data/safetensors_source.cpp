#include "trainer/data/safetensors_source.h"

#include <unordered_set>

#include "trainer/data/hf_source_files.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {

Status SafetensorsSource::add_file(const std::string& path, const std::string& label) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(path));
  Result<SafetensorsHeader> header = read_safetensors_header(*reader);
  if (!header.ok()) return header.status().with_context(label);

  std::unordered_set<std::string> names;
  for (const SourceTensor& tensor : tensors_) names.insert(tensor.name);
  for (SafetensorsTensor& tensor : header->tensors) {
    if (!names.insert(tensor.name).second) {
      return corrupt(label + ": " + quote_tensor(tensor.name) + " is in another file too");
    }
    places_.push_back({files_.size(), tensor.offset, tensor.size_bytes});
    tensors_.push_back({std::move(tensor.name), tensor.dtype, dtype_name(tensor.dtype), std::move(tensor.shape),
                        tensor.size_bytes});
  }
  files_.push_back({label, std::move(reader)});
  return {};
}

void SafetensorsSource::drop_tensor(const std::string& name) {
  const std::optional<size_t> index = find(name);
  if (!index) return;
  tensors_.erase(tensors_.begin() + static_cast<ptrdiff_t>(*index));
  places_.erase(places_.begin() + static_cast<ptrdiff_t>(*index));
}

Status SafetensorsSource::read_raw(size_t tensor, MutableBytes out) const {
  if (tensor >= tensors_.size() || out.size() != places_[tensor].size_bytes) {
    return invalid_argument("read_raw: no tensor " + std::to_string(tensor) + ", or not of " +
                            std::to_string(out.size()) + " bytes");
  }
  const Place& place = places_[tensor];
  return files_[place.file]
      .reader->read(place.offset, out)
      .with_context(files_[place.file].label + ": " + quote_tensor(tensors_[tensor].name));
}

Result<SourceFiles> SafetensorsSource::source_files() const {
  return folder_.empty() ? SourceFiles() : collect_hf_files(folder_);
}

uint64_t SafetensorsSource::stored_bytes() const {
  uint64_t sum = 0;
  for (const Place& place : places_) sum += place.size_bytes;
  return sum;
}

}  // namespace nwc
