#include "trainer/inspect/decompress.h"
#include "trainer/inspect/gguf_tensors.h"

namespace nwc {

Status decompress_to_gguf(const NwcFile& file, Decoder& decoder, Runner& runner, const SourceRecord* source,
                          const GgufFileType* type, const std::string& path, const Progress& progress,
                          std::vector<std::string>* notes) {
  NWC_ASSIGN_OR_RETURN(const GgufPlan plan, plan_gguf(file, source, type, notes));
  std::vector<uint64_t> sizes;
  NWC_TRY(make_gguf_header(plan.metadata, plan.tensors, &sizes).status());
  GgufTensors tensors(file, decoder, runner, plan, progress);
  return write_gguf(path, plan.metadata, plan.tensors, [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    bytes->resize(sizes[i]);
    return tensors.make(i, *bytes);
  });
}

}  // namespace nwc
