// A GGUF file: metadata, tensor directory, tensors of every type, model description and tokenizer.
#include "tests/fuzz/source_checks.h"
#include "trainer/data/gguf_source.h"

using namespace nwc;
using namespace nwc::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes input(data, size);
  Result<GgufFile> file = GgufFile::open(make_memory_reader(input));
  if (!file.ok()) return 0;
  const auto source = open_gguf(std::move(*file));
  if (source.ok()) check_source(**source, input);
  return 0;
}
