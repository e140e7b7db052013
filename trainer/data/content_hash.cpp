#include "trainer/data/content_hash.h"

#include <bit>

#include "runtime/format/container.h"

namespace nwc {

void ContentHash::add(Bytes bytes) {
  for (const uint8_t b : bytes) state_ = (state_ ^ b) * 0x100000001b3ull;
}

void ContentHash::add(uint64_t v) { add({reinterpret_cast<const uint8_t*>(&v), sizeof v}); }

void ContentHash::add(double v) { add(std::bit_cast<uint64_t>(v)); }

void ContentHash::add(const std::string& text) {
  add(uint64_t{text.size()});
  add({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

Status ContentHash::add(const ModelSource& source) {
  if (source.model()) add(Bytes(serialize(*source.model())));
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < source.tensors().size(); ++i) {
    const SourceTensor& tensor = source.tensors()[i];
    add(tensor.name);
    add(static_cast<uint64_t>(tensor.dtype));
    for (const uint64_t d : tensor.shape) add(d);
    bytes.resize(static_cast<size_t>(tensor.num_bytes()));
    NWC_TRY(source.read_raw(i, bytes));
    add(uint64_t{crc32(bytes)});
  }
  return {};
}

std::string ContentHash::hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(16, '0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = kDigits[(state_ >> (60 - 4 * i)) & 15];
  return text;
}

}  // namespace nwc
