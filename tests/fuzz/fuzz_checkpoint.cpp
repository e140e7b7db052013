// A checkpoint of training (.nwck): what is taken can be made into a codec again.
#include "tests/fuzz/container_mutator.h"
#include "trainer/train/checkpoint.h"

using namespace nwc;
using namespace nwc::fuzz;

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return mutate_container(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto state = load_checkpoint(scratch_file("fuzz.nwck", {data, size}));
  if (!state.ok()) return 0;
  require(validate(state->options).ok(), "options that were taken are valid");
  const CodecModel codec = make_codec(state->parameters);
  require(codec.record.num_levels == state->options.num_levels, "a codec of the checkpoint's levels");
  return 0;
}
