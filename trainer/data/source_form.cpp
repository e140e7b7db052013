#include "trainer/data/source_form.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

/// Where element (r, c) of a plain matrix [rows][cols] lies in its form, in elements.
size_t stored_at(SourceForm form, size_t rows, size_t cols, size_t r, size_t c) {
  const size_t half = rows / 2;
  const size_t paired = r < half ? 2 * r : 2 * (r - half) + 1;
  switch (form) {
    case SourceForm::kTransposed:
    case SourceForm::kStackedTransposed: return c * rows + r;
    case SourceForm::kStackedPairs: return c * rows + paired;
    case SourceForm::kStackedPairRows: return paired * cols + c;
    default: return r * cols + c;
  }
}

void convert_matrix(SourceForm form, bool to_plain, size_t rows, size_t cols, size_t element, Bytes in,
                    MutableBytes out) {
  constexpr size_t kTile = 32;  // rows and columns that are turned while they lie in a cache
  for (size_t r0 = 0; r0 < rows; r0 += kTile) {
    for (size_t c0 = 0; c0 < cols; c0 += kTile) {
      for (size_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
        for (size_t c = c0; c < std::min(cols, c0 + kTile); ++c) {
          const size_t plain = r * cols + c, stored = stored_at(form, rows, cols, r, c);
          std::memcpy(&out[(to_plain ? plain : stored) * element], &in[(to_plain ? stored : plain) * element], element);
        }
      }
    }
  }
}

Status convert_by_head(bool to_plain, uint32_t heads, const std::vector<uint64_t>& shape, size_t row_bytes, Bytes in,
                       MutableBytes out) {
  const uint64_t rows = shape.empty() ? 0 : shape[0];
  if (heads == 0 || rows == 0 || rows % (3 * uint64_t{heads}) != 0)
    return unsupported(str_cat("q, k and v of ", heads, " heads do not fit in ", rows, " rows"));
  const size_t group = static_cast<size_t>(rows / (3 * uint64_t{heads})) * row_bytes;
  for (size_t part = 0; part < 3; ++part) {
    for (size_t head = 0; head < heads; ++head) {
      const size_t plain = (part * heads + head) * group, by_head = (head * 3 + part) * group;
      std::memcpy(&out[to_plain ? plain : by_head], &in[to_plain ? by_head : plain], group);
    }
  }
  return {};
}

/// shape: as stored.
Status convert(SourceForm form, bool to_plain, uint32_t heads, const std::vector<uint64_t>& shape, Bytes in,
               MutableBytes out) {
  uint64_t count = 1;
  for (const uint64_t d : shape) count *= d;
  if (count == 0 || in.size() != out.size() || in.size() % count != 0)
    return unsupported("a tensor without elements cannot change its form");
  const size_t element = in.size() / static_cast<size_t>(count);
  if (form == SourceForm::kPlain || form == SourceForm::kStacked) {
    std::memcpy(out.data(), in.data(), in.size());
    return {};
  }
  if (form == SourceForm::kQkvByHead)
    return convert_by_head(to_plain, heads, shape,
                           static_cast<size_t>(count / std::max<uint64_t>(1, shape[0])) * element, in, out);
  if (shape.size() != 2) return unsupported("only a matrix can be stored transposed, or with pairs of outputs");
  if (form == SourceForm::kPairs) {  // each row is a matrix of one column
    const size_t row = static_cast<size_t>(shape[1]) * element;
    for (size_t r = 0; r < shape[0]; ++r)
      convert_matrix(SourceForm::kStackedPairRows, to_plain, static_cast<size_t>(shape[1]), 1, element,
                     in.subspan(r * row, row), out.subspan(r * row, row));
    return {};
  }
  const std::vector<uint64_t> plain = plain_shape(form, shape);
  convert_matrix(form, to_plain, static_cast<size_t>(plain[0]), static_cast<size_t>(plain[1]), element, in, out);
  return {};
}

}  // namespace

std::string stacked_name(const std::string& pattern, uint32_t layer) {
  std::string name = pattern;
  const size_t first = name.find("{}");
  const size_t second = first == std::string::npos ? first : name.find(".{}", first + 2);
  if (second != std::string::npos) name.erase(second, 3);
  if (first != std::string::npos) name.replace(first, 2, std::to_string(layer));
  return name;
}

std::vector<uint64_t> plain_shape(SourceForm form, const std::vector<uint64_t>& shape) {
  const bool turned =
      form == SourceForm::kTransposed || form == SourceForm::kStackedTransposed || form == SourceForm::kStackedPairs;
  if (!turned || shape.size() != 2) return shape;
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
