// config.json, and behind a NUL byte generation_config.json: what is taken has to be a valid model record.
#include "tests/fuzz/source_checks.h"
#include "trainer/data/hf_config.h"

using namespace nwc;
using namespace nwc::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto [config, generation] = split_at_nul({data, size});
  const auto parsed = parse_hf_config(config, generation.empty() ? nullptr : &generation);
  if (parsed.ok()) check_model_record(parsed->model);
  return 0;
}
