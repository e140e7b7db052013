#include "trainer/inspect/decompress.h"

#include <algorithm>
#include <span>

#include "trainer/data/safetensors.h"
#include "trainer/inspect/tensor_output.h"

namespace nwc {
namespace {

void subtract_one(MutableBytes floats) {
  for (size_t i = 0; i + sizeof(float) <= floats.size(); i += sizeof(float))
    store_le(&floats[i], load_le<float>(&floats[i]) - 1);
}

/// A tensor of the compressed file, and how the checkpoint has it.
struct Part {
  size_t tensor = 0;
  const HeldForm* form = nullptr;  ///< null: as it is
  uint32_t expert() const { return form == nullptr ? 0 : form->expert; }
};

/// A tensor of the checkpoint.
struct Output {
  SafetensorsTensor tensor;
  std::vector<Part> parts;  ///< by expert, then from the uppermost on
};

Status other_shape(const TensorRecord& record, const std::string& name) {
  return corrupt("tensor \"" + record.name + "\" has another shape than what lies beside it in \"" + name + "\"");
}

/// The shape of what lies in one tensor: of the parts of each expert one below the other, in the checkpoint's form.
Status set_shape(const NwcFile& file, Output* output) {
  std::vector<Part>& parts = output->parts;
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
    return a.expert() != b.expert() ? a.expert() < b.expert() : a.form->part < b.form->part;
  });
  std::vector<uint64_t> whole;
  uint64_t experts = 0;
  for (size_t begin = 0, end = 0; begin < parts.size(); begin = end, ++experts) {
    std::vector<uint64_t> one = file.tensors()[parts[begin].tensor].shape;
    for (end = begin + 1; end < parts.size() && parts[end].expert() == parts[begin].expert(); ++end) {
      const TensorRecord& below = file.tensors()[parts[end].tensor];
      const bool fits = below.shape.size() == one.size() && !one.empty() &&
                        std::equal(one.begin() + 1, one.end(), below.shape.begin() + 1);
      if (!fits) return other_shape(below, output->tensor.name);
      one[0] += below.shape[0];
    }
    if (experts != 0 && one != whole) return other_shape(file.tensors()[parts[begin].tensor], output->tensor.name);
    whole = std::move(one);
  }
  const HeldForm* form = parts.front().form;
  output->tensor.shape = form == nullptr ? whole : plain_shape(form->form, whole);
  if (form != nullptr && is_stacked(form->form)) output->tensor.shape.insert(output->tensor.shape.begin(), experts);
  return {};
}

/// What an expert's parts make, as the checkpoint has it, behind `bytes`.
Status add_matrix(TensorOutput& decode, const Output& output, std::span<const Part> parts,
                  std::vector<uint8_t>* bytes) {
  std::vector<uint8_t> plain, part;
  for (const Part& p : parts) {
    NWC_TRY(decode.decode(p.tensor, output.tensor.dtype, &part));
    if (plain.empty()) {
      plain = std::move(part);
    } else {
      plain.insert(plain.end(), part.begin(), part.end());
    }
  }
  const HeldForm* form = parts.front().form;
  if (form == nullptr) {
    *bytes = std::move(plain);
    return {};
  }
  if (form->minus_one) subtract_one(plain);
  const size_t before = bytes->size();
  bytes->resize(before + plain.size());
  std::vector<uint64_t> shape = output.tensor.shape;
  if (is_stacked(form->form)) shape.erase(shape.begin());
  return from_plain_form(form->form, form->heads, shape, plain, MutableBytes(*bytes).subspan(before))
      .with_context("tensor \"" + output.tensor.name + "\"");
}

}  // namespace

Status decompress_model(const NwcFile& file, Decoder& decoder, std::optional<Dtype> dtype, const std::string& path,
                        const Progress& progress, const std::unordered_map<std::string, HeldForm>& forms,
                        uint64_t max_shard_bytes) {
  if (dtype) NWC_TRY(check_output_dtype(*dtype));
  std::vector<Output> outputs;
  std::unordered_map<std::string, size_t> by_name;  // of those that may get more parts
  uint64_t weights = 0;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorRecord& record = file.tensors()[i];
    weights += record.num_elements();
    const auto found = forms.find(record.name);
    const HeldForm* form = found == forms.end() ? nullptr : &found->second;
    if (form != nullptr && !form->name.empty()) {
      const auto [at, is_new] = by_name.emplace(form->name, outputs.size());
      if (!is_new) {
        outputs[at->second].parts.push_back({i, form});
        continue;
      }
    }
    Output& output = outputs.emplace_back();
    output.parts.push_back({i, form});
    output.tensor.name = form != nullptr && !form->name.empty() ? form->name : record.name;
    output.tensor.dtype = dtype && dtype_is_float(record.dtype) ? *dtype : record.dtype;
    if (form != nullptr && form->minus_one) output.tensor.dtype = Dtype::kF32;
  }
  std::vector<SafetensorsTensor> tensors;
  for (Output& output : outputs) {
    NWC_TRY(set_shape(file, &output));
    tensors.push_back(output.tensor);
  }
  TensorOutput decode(file, decoder, weights, progress);
  const auto produce = [&](size_t t, std::vector<uint8_t>* bytes) -> Status {
    bytes->clear();
    const std::vector<Part>& parts = outputs[t].parts;
    for (size_t begin = 0, end = 0; begin < parts.size(); begin = end) {
      while (end < parts.size() && parts[end].expert() == parts[begin].expert()) ++end;
      NWC_TRY(add_matrix(decode, outputs[t], std::span(parts).subspan(begin, end - begin), bytes));
    }
    return {};
  };
  return write_safetensors_shards(path, tensors, {{"format", "pt"}}, max_shard_bytes, produce);
}

}  // namespace nwc
