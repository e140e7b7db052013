#include "trainer/inspect/decompress.h"

#include "trainer/data/safetensors.h"
#include "trainer/inspect/tensor_output.h"

namespace nwc {
namespace {

void subtract_one(MutableBytes floats) {
  for (size_t i = 0; i + sizeof(float) <= floats.size(); i += sizeof(float))
    store_le(&floats[i], load_le<float>(&floats[i]) - 1);
}

}  // namespace

Status decompress_model(const NwcFile& file, Decoder& decoder, std::optional<Dtype> dtype, const std::string& path,
                        const Progress& progress, const std::unordered_map<std::string, HeldForm>& forms) {
  if (dtype) NWC_TRY(check_output_dtype(*dtype));
  std::vector<SafetensorsTensor> tensors;
  std::vector<std::vector<size_t>> parts;  // of each of them: one, or all experts of a layer
  std::unordered_map<std::string, size_t> stacks;
  uint64_t weights = 0;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorRecord& record = file.tensors()[i];
    weights += record.num_elements();
    const auto form = forms.find(record.name);
    const bool stacked = form != forms.end() && is_stacked(form->second.form);
    if (stacked) {
      const auto [at, is_new] = stacks.emplace(form->second.name, tensors.size());
      if (!is_new) {
        parts[at->second].push_back(i);
        ++tensors[at->second].shape[0];
        continue;
      }
    }
    SafetensorsTensor& t = tensors.emplace_back();
    parts.push_back({i});
    t.name = record.name;
    t.dtype = dtype && dtype_is_float(record.dtype) ? *dtype : record.dtype;
    t.shape = form == forms.end() ? record.shape : plain_shape(form->second.form, record.shape);
    if (stacked) t.shape.insert(t.shape.begin(), 1);
    if (form != forms.end() && !form->second.name.empty()) t.name = form->second.name;
    if (form != forms.end() && form->second.minus_one) t.dtype = Dtype::kF32;
  }
  TensorOutput output(file, decoder, weights, progress);
  return write_safetensors(path, tensors, {{"format", "pt"}}, [&](size_t t, std::vector<uint8_t>* bytes) -> Status {
    bytes->clear();
    std::vector<uint8_t> plain;
    for (const size_t i : parts[t]) {
      const TensorRecord& record = file.tensors()[i];
      NWC_TRY(output.decode(i, tensors[t].dtype, &plain));
      const auto held = forms.find(record.name);
      if (held == forms.end()) {
        *bytes = std::move(plain);
        return {};
      }
      if (held->second.minus_one) subtract_one(plain);
      const size_t before = bytes->size();
      bytes->resize(before + plain.size());
      NWC_TRY(from_plain_form(held->second.form, held->second.heads, plain_shape(held->second.form, record.shape),
                              plain, MutableBytes(*bytes).subspan(before))
                  .with_context("tensor \"" + tensors[t].name + "\""));
    }
    return {};
  });
}

}  // namespace nwc
