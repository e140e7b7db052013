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
  uint64_t weights = 0;
  for (const TensorRecord& record : file.tensors()) {
    SafetensorsTensor& t = tensors.emplace_back();
    t.name = record.name;
    t.dtype = dtype && dtype_is_float(record.dtype) ? *dtype : record.dtype;
    const auto form = forms.find(record.name);
    t.shape = form == forms.end() ? record.shape : plain_shape(form->second.form, record.shape);
    if (form != forms.end() && !form->second.name.empty()) t.name = form->second.name;
    if (form != forms.end() && form->second.minus_one) t.dtype = Dtype::kF32;
    weights += record.num_elements();
  }
  TensorOutput output(file, decoder, weights, progress);
  return write_safetensors(path, tensors, {{"format", "pt"}}, [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    NWC_TRY(output.decode(i, tensors[i].dtype, bytes));
    const auto held = forms.find(file.tensors()[i].name);
    if (held == forms.end()) return {};
    if (held->second.minus_one) subtract_one(*bytes);
    const std::vector<uint8_t> plain = *bytes;
    return from_plain_form(held->second.form, held->second.heads, tensors[i].shape, plain, *bytes)
        .with_context("tensor \"" + tensors[i].name + "\"");
  });
}

}  // namespace nwc
