// A tokenizer.json: what is taken has to be a valid record whose tokenizer encodes and decodes.
#include "tests/fuzz/source_checks.h"
#include "trainer/data/hf_tokenizer.h"

using namespace nwc;
using namespace nwc::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes input(data, size);
  SourceNotes notes;
  const auto record = parse_hf_tokenizer(input, std::nullopt, &notes);
  if (record.ok()) check_tokenizer_record(*record, input);
  return 0;
}
