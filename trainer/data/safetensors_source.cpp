#include "trainer/data/safetensors_source.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>

#include "runtime/base/checked.h"
#include "runtime/base/half.h"
#include "trainer/data/hf_source_files.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {

Status SafetensorsSource::add_file(const std::string& path, const std::string& label,
                                   const std::function<bool(const std::string& name)>& keep) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(path));
  Result<SafetensorsHeader> header = read_safetensors_header(*reader);
  if (!header.ok()) return header.status().with_context(label);

  for (SourceNote& note : header->notes) {
    if (!folder_.empty()) note.text = label + ": " + note.text;  // the only file needs no name; its label is a path
    const auto same = [&](const SourceNote& other) { return other.text == note.text; };
    if (std::none_of(notes_.begin(), notes_.end(), same)) add_note(std::move(note));  // files may be added in parts
  }
  for (SafetensorsTensor& tensor : header->tensors) {
    if (keep && !keep(tensor.name)) continue;
    if (!names_.insert(tensor.name).second) {
      return corrupt(label + ": " + quote_tensor(tensor.name) + " is in another file too");
    }
    places_.push_back({files_.size(), tensor.offset, tensor.size_bytes});
    tensors_.push_back(
        {std::move(tensor.name), tensor.dtype, dtype_name(tensor.dtype), std::move(tensor.shape), tensor.size_bytes});
  }
  files_.push_back({label, std::move(reader)});
  return {};
}

void SafetensorsSource::keep_tensors(const std::function<bool(const std::string& name)>& keep) {
  size_t kept = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!keep(tensors_[i].name)) {
      names_.erase(tensors_[i].name);
      continue;
    }
    if (kept != i) {
      tensors_[kept] = std::move(tensors_[i]);
      places_[kept] = places_[i];
    }
    ++kept;
  }
  tensors_.resize(kept);
  places_.resize(kept);
}

void SafetensorsSource::drop_tensor(const std::string& name) {
  keep_tensors([&](const std::string& other) { return other != name; });
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
  for (const size_t t : {a, b}) {
    if (places_[t].scales != kNoScales || places_[t].mx_scales != kNoMx) return false;
  }
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

Result<size_t> SafetensorsSource::multiply_block_scales(uint64_t block_rows, uint64_t block_cols) {
  constexpr char kSuffix[] = "_scale_inv";
  std::unordered_map<std::string, size_t> index_of;
  for (size_t i = 0; i < tensors_.size(); ++i) index_of.emplace(tensors_[i].name, i);
  std::unordered_set<std::string> used;
  Status status;
  for (size_t i = 0; i < tensors_.size() && status.ok(); ++i) {
    SourceTensor& weight = tensors_[i];
    const auto at = index_of.find(weight.name + kSuffix);
    if (at == index_of.end() || !dtype_is_float(weight.dtype) || dtype_size(weight.dtype) != 1) continue;
    const SourceTensor& scale = tensors_[at->second];
    const bool matrices = weight.shape.size() == 2 && scale.shape.size() == 2 && block_rows != 0 && block_cols != 0;
    if (!matrices || scale.shape[0] != ceil_div(weight.shape[0], block_rows) ||
        scale.shape[1] != ceil_div(weight.shape[1], block_cols) || !dtype_is_float(scale.dtype) ||
        places_[at->second].scales != kNoScales) {
      status =
          unsupported(quote_tensor(scale.name) + " of shape " + shape_text(scale.shape) + " and type " +
                      scale.stored_type + " does not hold a scale for each block of " + std::to_string(block_rows) +
                      " x " + std::to_string(block_cols) + " of " + shape_text(weight.shape) + " weights");
      continue;
    }
    places_[i].scales = scales_.size();
    scales_.push_back({places_[at->second], weight.dtype, scale.dtype, scale.shape[1], block_rows, block_cols});
    weight.dtype = Dtype::kF32;
    used.insert(scale.name);
  }
  keep_tensors([&](const std::string& name) { return used.count(name) == 0; });
  NWC_TRY(status);
  return used.size();
}

Status SafetensorsSource::split_tensor(size_t tensor, const std::vector<std::string>& names) {
  const SourceTensor whole = tensors_[tensor];
  Place place = places_[tensor];
  if (whole.shape.size() < 2 || whole.shape[0] != names.size() || names.empty() || place.scales != kNoScales) {
    return unsupported(quote_tensor(whole.name) + " of shape " + shape_text(whole.shape) + " does not hold " +
                       std::to_string(names.size()) + " experts");
  }
  const uint64_t parts = names.size(), scale_bytes = whole.num_elements() / 32 / parts;
  place.size_bytes /= parts;
  for (const std::string& name : names) {
    if (!names_.insert(name).second)
      return unsupported(quote_tensor(name) + " is there, and in " + whole.name + ", too");
    tensors_.push_back(whole);
    SourceTensor& part = tensors_.back();
    part.name = name;
    part.shape.erase(part.shape.begin());
    part.stored_bytes /= parts;
    places_.push_back(place);
    place.offset += place.size_bytes;
    if (place.mx_scales != kNoMx) place.mx_scales += scale_bytes;
  }
  drop_tensor(whole.name);
  return {};
}

Result<size_t> SafetensorsSource::join_mxfp4() {
  constexpr std::string_view kBlocks = "_blocks", kScales = "_scales";
  std::unordered_map<std::string, size_t> index_of;
  for (size_t i = 0; i < tensors_.size(); ++i) index_of.emplace(tensors_[i].name, i);
  std::unordered_set<std::string> used;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    SourceTensor& blocks = tensors_[i];
    if (!blocks.name.ends_with(kBlocks) || blocks.dtype != Dtype::kU8) continue;
    const std::string name = blocks.name.substr(0, blocks.name.size() - kBlocks.size());
    const auto at = index_of.find(name + std::string(kScales));
    if (at == index_of.end()) continue;
    const SourceTensor& scales = tensors_[at->second];
    std::vector<uint64_t> shape = blocks.shape;
    const bool fit = shape.size() >= 3 && shape.back() == 16 && scales.dtype == Dtype::kU8 &&
                     scales.shape == std::vector<uint64_t>(shape.begin(), shape.end() - 1);
    if (!fit || index_of.count(name) != 0) {
      return unsupported(quote_tensor(blocks.name) + " of shape " + shape_text(shape) + " and " +
                         quote_tensor(scales.name) + " of shape " + shape_text(scales.shape) +
                         " are not the blocks and scales of 4-bit weights");
    }
    shape.pop_back();
    shape.back() *= 32;
    places_[i].mx_scales = places_[at->second].offset;
    places_[i].mx_file = places_[at->second].file;
    names_.erase(blocks.name);
    names_.insert(name);
    used.insert(scales.name);
    blocks.stored_bytes += scales.stored_bytes;
    blocks = {name, Dtype::kBf16, "MXFP4", std::move(shape), blocks.stored_bytes};
  }
  keep_tensors([&](const std::string& name) { return used.count(name) == 0; });
  return used.size();
}

Status SafetensorsSource::read_mxfp4(size_t tensor, MutableBytes out) const {
  constexpr float kValues[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  const SourceTensor& info = tensors_[tensor];
  Place scales_at = places_[tensor];
  scales_at.offset = scales_at.mx_scales;
  scales_at.file = scales_at.mx_file;
  const size_t blocks = static_cast<size_t>(info.num_elements() / 32);
  std::vector<uint8_t> packed(blocks * 16), scales(blocks);
  NWC_TRY(read_at(places_[tensor], info.name, packed));
  NWC_TRY(read_at(scales_at, info.name, scales));
  for (size_t b = 0; b < blocks; ++b) {
    const float scale = std::ldexp(1.0f, int{scales[b]} - 127);
    for (size_t i = 0; i < 32; ++i) {
      const uint8_t pair = packed[b * 16 + i / 2];
      const float value = kValues[i % 2 == 0 ? pair & 15 : pair >> 4] * scale;
      store_le(out.data() + (b * 32 + i) * sizeof(uint16_t), f32_to_bf16(value));
    }
  }
  return {};
}

Status SafetensorsSource::read_at(const Place& place, const std::string& name, MutableBytes out) const {
  return files_[place.file]
      .reader->read(place.offset, out)
      .with_context(files_[place.file].label + ": " + quote_tensor(name));
}

Status SafetensorsSource::read_scaled(size_t tensor, MutableBytes out) const {
  const SourceTensor& info = tensors_[tensor];
  const BlockScales& scales = scales_[places_[tensor].scales];
  std::vector<uint8_t> weights(static_cast<size_t>(places_[tensor].size_bytes));
  std::vector<uint8_t> factors(static_cast<size_t>(scales.place.size_bytes));
  NWC_TRY(read_at(places_[tensor], info.name, weights));
  NWC_TRY(read_at(scales.place, info.name, factors));
  const uint64_t rows = info.shape[0], cols = info.shape[1];
  const size_t factor_bytes = dtype_size(scales.scale_dtype);
  for (uint64_t r = 0; r < rows; ++r) {
    for (uint64_t c = 0; c < cols; ++c) {
      const uint64_t block = r / scales.block_rows * scales.scale_cols + c / scales.block_cols;
      const float factor = load_float(scales.scale_dtype, factors.data() + block * factor_bytes);
      const float weight = load_float(scales.weight_dtype, weights.data() + r * cols + c);
      store_le(out.data() + (r * cols + c) * sizeof(float), weight * factor);
    }
  }
  return {};
}

Status SafetensorsSource::read_raw(size_t tensor, MutableBytes out) const {
  if (tensor >= tensors_.size() || out.size() != tensors_[tensor].num_bytes()) {
    return invalid_argument("read_raw: no tensor " + std::to_string(tensor) + ", or not of " +
                            std::to_string(out.size()) + " bytes");
  }
  const Place& place = places_[tensor];
  if (place.form == SourceForm::kPlain) return read_as_stored(tensor, out);
  std::vector<uint8_t> stored(out.size());
  NWC_TRY(read_as_stored(tensor, stored));
  return to_plain_form(place.form, place.heads, place.shape, stored, out)
      .with_context(quote_tensor(tensors_[tensor].name));
}

Status SafetensorsSource::read_as_stored(size_t tensor, MutableBytes out) const {
  if (places_[tensor].scales != kNoScales) return read_scaled(tensor, out);
  if (places_[tensor].mx_scales != kNoMx) return read_mxfp4(tensor, out);
  return read_at(places_[tensor], tensors_[tensor].name, out);
}

void SafetensorsSource::restore(Listing listing) {
  tensors_ = std::move(listing.tensors);
  places_ = std::move(listing.places);
  names_ = std::move(listing.names);
}

Status SafetensorsSource::set_form(size_t tensor, SourceForm form, uint32_t heads) {
  Place& place = places_[tensor];
  if (form == SourceForm::kPlain || place.form != SourceForm::kPlain) return {};
  if (place.scales != kNoScales)
    return unsupported(quote_tensor(tensors_[tensor].name) + ": scaled weights in another form");
  place.form = form;
  place.heads = heads;
  place.shape = tensors_[tensor].shape;
  tensors_[tensor].shape = plain_shape(form, place.shape);
  return {};
}

Result<SourceFiles> SafetensorsSource::source_files() const {
  return folder_.empty() ? SourceFiles() : collect_hf_files(folder_);
}

uint64_t SafetensorsSource::stored_bytes() const {
  uint64_t sum = 0;
  for (const Place& place : places_) sum += place.size_bytes + (place.mx_scales != kNoMx ? place.size_bytes / 16 : 0);
  for (const BlockScales& scales : scales_) sum += scales.place.size_bytes;
  return sum;
}

}  // namespace nwc
