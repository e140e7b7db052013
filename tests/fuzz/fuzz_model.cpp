// Model files that mostly open and decode: every decoder and every session mode is compared with the others.
#include <unordered_set>

#include "tests/fuzz/decode_check.h"
#include "tests/fuzz/model_mutator.h"
#include "tests/fuzz/session_check.h"

using namespace nwc;
using namespace nwc::fuzz;

namespace {

constexpr uint64_t kMaxElements = 1 << 15;  // of all coded tensors
constexpr uint32_t kMaxNetworkWidth = 64;

bool small_enough(const NwcFile& file) {
  uint64_t elements = 0;
  for (const TensorRecord& r : file.tensors()) {
    if (r.num_elements() > kMaxElements) return false;
    elements += r.num_elements();
  }
  return elements <= kMaxElements && file.codec()->synthesis.width <= kMaxNetworkWidth;
}

// Most tensors of an input are those of the input that it was made of: the same codec, record and bytes are checked
// once.
bool is_new(const NwcFile& file, uint64_t codec, size_t tensor, Bytes input) {
  static std::unordered_set<uint64_t> checked;
  constexpr size_t kMostRemembered = 1 << 20;
  if (checked.size() > kMostRemembered) checked.clear();
  TensorRecord r = file.tensors()[tensor];
  const Bytes blob = input.subspan(static_cast<size_t>(file.data_offset() + r.offset), static_cast<size_t>(r.size));
  r.offset = 0;
  return checked.insert(codec ^ hash_of(serialize(std::vector{r})) * 3 ^ hash_of(blob) * 5).second;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return mutate_model(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes input(data, size);
  const auto file = NwcFile::open(make_memory_reader(input));
  if (!file.ok() || !(*file)->codec() || !small_enough(**file)) return 0;
  const DecodeTables tables = build_decode_tables(*(*file)->codec());
  const uint64_t choice = hash_of(input), codec = hash_of(serialize(*(*file)->codec()));
  for (size_t i = 0; i < (*file)->tensors().size(); ++i) {
    const TensorRecord& r = (*file)->tensors()[i];
    if (r.storage == Storage::kCoded && is_new(**file, codec, i, input))
      check_coded_tensor(**file, tables, i, choice + i);
  }
  check_sessions(**file, tables, choice);
  return 0;
}
