#include "trainer/inspect/decompress.h"

#include "trainer/data/safetensors.h"
#include "trainer/inspect/tensor_output.h"

namespace nwc {

Status decompress_model(const NwcFile& file, Decoder& decoder, std::optional<Dtype> dtype, const std::string& path,
                        const Progress& progress) {
  if (dtype) NWC_TRY(check_output_dtype(*dtype));
  std::vector<SafetensorsTensor> tensors;
  uint64_t weights = 0;
  for (const TensorRecord& record : file.tensors()) {
    SafetensorsTensor& t = tensors.emplace_back();
    t.name = record.name;
    t.dtype = dtype && dtype_is_float(record.dtype) ? *dtype : record.dtype;
    t.shape = record.shape;
    weights += record.num_elements();
  }
  TensorOutput output(file, decoder, weights, progress);
  return write_safetensors(path, tensors, {{"format", "pt"}}, [&](size_t i, std::vector<uint8_t>* bytes) {
    return output.decode(i, tensors[i].dtype, bytes);
  });
}

}  // namespace nwc
