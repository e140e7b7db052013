#include "trainer/data/source_form.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

Status convert(SourceForm form, bool to_plain, uint32_t heads, const std::vector<uint64_t>& shape, Bytes in,
               MutableBytes out) {
  uint64_t count = 1;
  for (const uint64_t d : shape) count *= d;
  if (count == 0 || in.size() != out.size() || in.size() % count != 0)
    return unsupported("a tensor without elements cannot change its form");
  const size_t element = in.size() / static_cast<size_t>(count);
  if (form == SourceForm::kTransposed) {
    if (shape.size() != 2) return unsupported("only a matrix can be stored transposed");
    const size_t rows = static_cast<size_t>(to_plain ? shape[0] : shape[1]);
    const size_t cols = static_cast<size_t>(to_plain ? shape[1] : shape[0]);
    constexpr size_t kTile = 32;  // rows and columns that are turned while they lie in a cache
    for (size_t r0 = 0; r0 < rows; r0 += kTile) {
      for (size_t c0 = 0; c0 < cols; c0 += kTile) {
        for (size_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
          for (size_t c = c0; c < std::min(cols, c0 + kTile); ++c)
            std::memcpy(&out[(c * rows + r) * element], &in[(r * cols + c) * element], element);
        }
      }
    }
    return {};
  }
  if (form == SourceForm::kQkvByHead) {
    const uint64_t rows = shape.empty() ? 0 : shape[0];
    if (heads == 0 || rows == 0 || rows % (3 * uint64_t{heads}) != 0) {
      return unsupported(str_cat("q, k and v of ", heads, " heads do not fit in ", rows, " rows"));
    }
    const size_t group = static_cast<size_t>(rows / (3 * uint64_t{heads}) * (count / rows)) * element;
    for (size_t part = 0; part < 3; ++part) {
      for (size_t head = 0; head < heads; ++head) {
        const size_t plain = (part * heads + head) * group, by_head = (head * 3 + part) * group;
        std::memcpy(&out[to_plain ? plain : by_head], &in[to_plain ? by_head : plain], group);
      }
    }
    return {};
  }
  std::memcpy(out.data(), in.data(), in.size());
  return {};
}

}  // namespace

std::vector<uint64_t> plain_shape(SourceForm form, const std::vector<uint64_t>& shape) {
  if (form != SourceForm::kTransposed || shape.size() != 2) return shape;
  return {shape[1], shape[0]};
}

Status to_plain_form(SourceForm form, uint32_t heads, const std::vector<uint64_t>& shape, Bytes in, MutableBytes out) {
  return convert(form, true, heads, shape, in, out);
}

Status from_plain_form(SourceForm form, uint32_t heads, const std::vector<uint64_t>& shape, Bytes in,
                       MutableBytes out) {
  return convert(form, false, heads, shape, in, out);
}

}  // namespace nwc
