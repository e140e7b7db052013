// A safetensors file: its header, and the tensors of what is taken.
#include <cstring>

#include "tests/fuzz/source_checks.h"
#include "trainer/data/safetensors.h"

using namespace nwc;
using namespace nwc::fuzz;

namespace {

void check_header(const SafetensorsHeader& header, uint64_t file_size) {
  uint64_t end = 0;
  for (const SafetensorsTensor& t : header.tensors) {
    require(t.offset >= end && t.size_bytes <= file_size && t.offset <= file_size - t.size_bytes,
            "tensors lie in the file, one behind the other");
    end = t.offset + t.size_bytes;
    uint64_t bits = dtype_bits(t.dtype);
    for (const uint64_t d : t.shape) bits *= d;
    require(bits == 8 * t.size_bytes, "a tensor's size follows from its shape");
  }
}

}  // namespace

// The header's length follows changes within the header, and data is left alone in most of them.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  Random random(seed);
  uint64_t length = 0;
  if (size >= 8) std::memcpy(&length, data, 8);
  if (size < 8 || length > size - 8 || random.one_in(6)) return LLVMFuzzerMutate(data, size, max_size);
  std::vector<uint8_t> header(data + 8, data + 8 + length);
  const std::vector<uint8_t> rest(data + 8 + length, data + size);
  header.resize(static_cast<size_t>(length) + 64);
  header.resize(LLVMFuzzerMutate(header.data(), static_cast<size_t>(length), header.size()));
  if (8 + header.size() + rest.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  length = header.size();
  std::memcpy(data, &length, 8);
  std::copy(header.begin(), header.end(), data + 8);
  std::copy(rest.begin(), rest.end(), data + 8 + header.size());
  return 8 + header.size() + rest.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes input(data, size);
  const auto header = read_safetensors_header(*make_memory_reader(input));
  if (!header.ok()) return 0;
  check_header(*header, size);
  const auto source = open_model_source(scratch_file("model.safetensors", input));
  if (source.ok()) check_source(**source, input);
  return 0;
}
