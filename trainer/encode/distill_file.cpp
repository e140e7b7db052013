#include "trainer/encode/distill_file.h"

#include "trainer/codec/decoded_source.h"
#include "trainer/data/stored_float.h"

namespace nwc {

bool can_be_distilled(const ModelSource& source, const PlannedTensor& planned) {
  const SourceTensor& tensor = source.tensors()[planned.source];
  return !planned.coded && tensor.shape.size() == 1 && stores_floats(tensor.dtype);
}

Result<DistillResult> distill_file(const ModelSource& source, const std::vector<PlannedTensor>& plan,
                                   const DistillChoices& choices, Runner& runner, const Progress& progress,
                                   const Logger& log, ModelWriter* writer) {
  const std::vector<SourceTensor>& tensors = source.tensors();
  std::vector<bool> replaceable(tensors.size(), false);
  std::vector<size_t> place(tensors.size(), 0);  // in the file
  for (size_t i = 0; i < plan.size(); ++i) {
    replaceable[plan[i].source] = can_be_distilled(source, plan[i]);
    place[plan[i].source] = i;
  }
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, writer->preview());
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> coded,
                       open_decoded_source(std::move(reader), source, runner));
  Result<DistillResult> result = distill_norms(source, *coded, replaceable, choices, runner, progress, log);
  if (!result.ok()) {
    if (result.status().code() == StatusCode::kCancelled || result.status().code() == StatusCode::kIo) return result;
    log.log(LogLevel::kWarning, "gains and biases are left as they are: " + result.status().message());
    return DistillResult();
  }
  for (const auto& [tensor, values] : result->values) {
    std::vector<uint8_t> bytes(static_cast<size_t>(tensors[tensor].num_bytes()));
    for (size_t i = 0; i < values.size(); ++i) store_float(tensors[tensor].dtype, values[i], i, bytes);
    NWC_TRY(writer->replace_raw(place[tensor], bytes));
  }
  return result;
}

}  // namespace nwc
