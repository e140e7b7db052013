#include "trainer/inspect/tensor_error.h"

#include "trainer/inspect/tensor_output.h"

namespace nwc {

Result<std::vector<std::optional<double>>> tensor_errors(const NwcFile& file, Decoder& decoder,
                                                         const ModelSource& source, const Progress& progress) {
  const std::vector<TensorRecord>& records = file.tensors();
  std::vector<std::optional<size_t>> of_source(records.size());
  uint64_t total = 0;
  for (size_t t = 0; t < records.size(); ++t) {
    if (records[t].storage != Storage::kCoded) continue;
    const std::optional<size_t> found = source.find(records[t].name);
    if (!found || source.tensors()[*found].shape != records[t].shape) continue;
    of_source[t] = found;
    total += records[t].num_elements();
  }
  TensorOutput output(file, decoder, total, progress);
  std::vector<std::optional<double>> out(records.size());
  for (size_t t = 0; t < records.size(); ++t) {
    if (!of_source[t]) continue;
    NWC_ASSIGN_OR_RETURN(const std::vector<float> wanted, source.read_f32(*of_source[t]));
    double error = 0, power = 0;
    size_t at = 0;
    NWC_TRY(output.decode_bands(t, Dtype::kF32, [&](Bytes band) -> Status {
      const float* decoded = reinterpret_cast<const float*>(band.data());
      for (size_t i = 0; i < band.size() / sizeof(float); ++i, ++at) {
        const double w = double{wanted[at]}, difference = w - double{decoded[i]};
        error += difference * difference;
        power += w * w;
      }
      return {};
    }));
    out[t] = power > 0 ? error / power : error;
  }
  return out;
}

}  // namespace nwc
