#include "trainer/data/safetensors_source.h"

#include <algorithm>

#include "trainer/data/hf_source_files.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {

Status SafetensorsSource::add_file(const std::string& path, const std::string& label,
                                   const std::function<bool(const std::string& name)>& keep) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(path));
  Result<SafetensorsHeader> header = read_safetensors_header(*reader);
  if (!header.ok()) return header.status().with_context(label);

  for (SafetensorsTensor& tensor : header->tensors) {
    if (keep && !keep(tensor.name)) continue;
    if (!names_.insert(tensor.name).second) {
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
  names_.erase(name);
  tensors_.erase(tensors_.begin() + static_cast<ptrdiff_t>(*index));
  places_.erase(places_.begin() + static_cast<ptrdiff_t>(*index));
}

void SafetensorsSource::rename_tensor(const std::string& from, const std::string& to) {
  const std::optional<size_t> index = find(from);
  if (!index || !names_.insert(to).second) return;
  names_.erase(from);
  tensors_[*index].name = to;
}

Result<bool> SafetensorsSource::same_content(size_t a, size_t b) const {
  constexpr uint64_t kStep = 4u << 20;
  if (tensors_[a].dtype != tensors_[b].dtype || tensors_[a].shape != tensors_[b].shape) return false;
  const Place& one = places_[a];
  const Place& other = places_[b];
  std::vector<uint8_t> storage_a, storage_b;
  for (uint64_t done = 0; done < one.size_bytes; done += kStep) {
    const uint64_t size = std::min(kStep, one.size_bytes - done);
    NWC_ASSIGN_OR_RETURN(const Bytes left, read_range(*files_[one.file].reader, one.offset + done, size, &storage_a));
    NWC_ASSIGN_OR_RETURN(const Bytes right,
                         read_range(*files_[other.file].reader, other.offset + done, size, &storage_b));
    if (!std::equal(left.begin(), left.end(), right.begin(), right.end())) return false;
  }
  return true;
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
