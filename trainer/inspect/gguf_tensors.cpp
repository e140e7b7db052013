#include "trainer/inspect/gguf_tensors.h"

#include <algorithm>
#include <cstring>

#include "trainer/data/gguf_model.h"
#include "trainer/data/gguf_quantize.h"

namespace nwc {
namespace {

// Within each head; the rows of other heads stay where they are.
void to_gguf_rotary_order(uint32_t head_dim, size_t row_bytes, MutableBytes rows) {
  const size_t head_bytes = head_dim * row_bytes;
  std::vector<uint8_t> head(head_bytes);
  for (size_t at = 0; at + head_bytes <= rows.size(); at += head_bytes) {
    const MutableBytes out = rows.subspan(at, head_bytes);
    std::copy(out.begin(), out.end(), head.begin());
    for (uint32_t row = 0; row < head_dim; ++row) {
      std::copy_n(head.begin() + static_cast<ptrdiff_t>(row * row_bytes), row_bytes,
                  out.begin() + static_cast<ptrdiff_t>(gguf_rotary_row(row, head_dim) * row_bytes));
    }
  }
}

bool all_finite_f16(Bytes values) {
  for (size_t i = 0; i < values.size(); i += 2) {
    if ((load_le<uint16_t>(values.data() + i) & 0x7c00u) == 0x7c00u) return false;
  }
  return true;
}

void add_one(MutableBytes floats) {
  for (size_t i = 0; i + sizeof(float) <= floats.size(); i += sizeof(float))
    store_le(&floats[i], load_le<float>(&floats[i]) + 1);
}

}  // namespace

Status GgufTensors::decode(size_t index, MutableBytes out) {
  const GgmlType& type = *plan_.tensors[index].type;
  uint64_t done = 0;  // elements
  const auto bytes_of = [&](uint64_t elements) { return elements / type.block_elements * type.block_bytes; };
  const auto take = [&](uint64_t elements) -> Result<MutableBytes> {
    if (elements % type.block_elements != 0 || bytes_of(done + elements) > out.size()) {
      return invalid_argument("the parts of the tensor do not fill its " + std::to_string(out.size()) + " bytes");
    }
    const MutableBytes to = out.subspan(bytes_of(done), bytes_of(elements));
    done += elements;
    return to;
  };
  const auto put = [&](Bytes decoded) -> Status {
    const uint64_t first = done;
    NWC_ASSIGN_OR_RETURN(const MutableBytes to, take(decoded.size() / dtype_size(type.dtype)));
    if (type.quantized()) return quantize(type, first, decoded, runner_, to);
    std::copy(decoded.begin(), decoded.end(), to.begin());
    return {};
  };
  std::vector<uint8_t> whole;
  std::optional<size_t> decoded;
  for (const GgufSegment& segment : plan_.segments[index]) {
    const TensorRecord& record = file_.tensors()[segment.record];
    if (segment.count == record.num_elements() && type.quantized()) {
      NWC_TRY(output_.decode_bands(segment.record, type.dtype, put));
    } else if (segment.count == record.num_elements()) {
      NWC_ASSIGN_OR_RETURN(const MutableBytes to, take(segment.count));
      NWC_TRY(output_.decode(segment.record, type.dtype, to));
    } else {
      if (decoded != segment.record) NWC_TRY(output_.decode(segment.record, type.dtype, &whole));
      decoded = segment.record;
      const uint64_t size = dtype_size(type.dtype);
      NWC_TRY(put(Bytes(whole).subspan(segment.first * size, segment.count * size)));
    }
  }
  if (bytes_of(done) == out.size()) return {};
  return invalid_argument("the parts of the tensor do not fill its " + std::to_string(out.size()) + " bytes");
}

Status GgufTensors::make(size_t index, MutableBytes out) {
  const GgufTensorSpec& tensor = plan_.tensors[index];
  const std::vector<GgufSegment>& segments = plan_.segments[index];
  if (segments.empty()) {
    const std::vector<float> factors = rope_factors(*file_.model(), tensor.name);
    if (out.size() != factors.size() * sizeof(float)) return invalid_argument("wrong size for the rotary factors");
    std::memcpy(out.data(), factors.data(), out.size());
    return {};
  }
  NWC_TRY(decode(index, out));
  const Dtype before = file_.tensors()[segments.front().record].dtype;
  const bool narrowed = !tensor.type->quantized() && tensor.type->dtype == Dtype::kF16 && before != Dtype::kF16;
  if (narrowed && !all_finite_f16(out)) return unsupported("a weight does not fit half floats; choose F32 or BF16");
  if (plan_.places[index].plus_one && !tensor.type->quantized() && tensor.type->dtype == Dtype::kF32) add_one(out);
  const uint32_t head_dim = plan_.places[index].rotary_head_dim;
  const std::vector<uint64_t>& shape = tensor.shape;
  const bool whole_heads = head_dim != 0 && shape.size() <= 2 && shape[0] % head_dim == 0;
  if (whole_heads && !out.empty()) to_gguf_rotary_order(head_dim, out.size() / shape[0], out);
  return {};
}

}  // namespace nwc
