#include "runtime/model/charsmap.h"

#include "runtime/base/str_cat.h"
#include "runtime/model/unicode.h"

namespace nwc {
namespace {

constexpr size_t kClusterBytes = 6;  // what is shorter is looked up as a whole

// Of the rules for grapheme clusters those that can make one of several characters in less than 6 bytes.
bool joins_what_is_before(uint32_t c) {
  return (char_bits(c) & kMarkBits) != 0 || c == 0x200c || c == 0x200d || c == 0xff9e || c == 0xff9f || c == 0xe33 ||
         c == 0xeb3;
}

bool joins_what_follows(uint32_t c) {
  return (c >= 0x600 && c <= 0x605) || c == 0x6dd || c == 0x70f || c == 0x890 || c == 0x891 || c == 0x8e2 || c == 0xd4e;
}

bool stands_alone(uint32_t c) {
  const GeneralClass kind = general_class(c);
  const bool format = kind == GeneralClass::kFormat && !joins_what_follows(c) && c != 0x200c && c != 0x200d;
  return kind == GeneralClass::kControl || format || c == 0x2028 || c == 0x2029 || c == kInvalidCodePoint;
}

size_t cluster_end(std::string_view text, size_t begin) {
  CodePoint c = decode_utf8(text, begin);
  size_t end = begin + c.length;
  if (c.value == '\r' && end < text.size() && text[end] == '\n') return end + 1;
  while (end < text.size() && !stands_alone(c.value)) {
    const CodePoint next = decode_utf8(text, end);
    const bool joined = joins_what_is_before(next.value) || (joins_what_follows(c.value) && !stands_alone(next.value));
    if (!joined) break;
    c = next;
    end += c.length;
  }
  return end;
}

}  // namespace

Result<Charsmap> Charsmap::create(Bytes bytes) {
  if (bytes.size() < 8) return corrupt("the charsmap is shorter than 8 bytes");
  const uint32_t size = load_le<uint32_t>(bytes.data());
  if (size % 4 != 0 || size < 4 || size > bytes.size() - 4) {
    return corrupt(str_cat("the charsmap's trie has ", size, " bytes of ", bytes.size()));
  }
  Charsmap map;
  map.units_ = bytes.data() + 4;
  map.num_units_ = size / 4;
  map.texts_ = std::string_view(reinterpret_cast<const char*>(bytes.data()) + 4 + size, bytes.size() - 4 - size);
  return map;
}

std::optional<std::string_view> Charsmap::replacement(std::string_view key) const {
  const auto offset = [](uint32_t u) { return (u >> 10) << ((u & 0x200) >> 6); };
  size_t node = offset(unit(0));
  for (const char byte : key) {
    const auto label = static_cast<uint8_t>(byte);
    if (label == 0) return std::nullopt;
    node ^= label;
    const uint32_t u = unit(node);
    if ((u & 0x800000ff) != label) return std::nullopt;
    node ^= offset(u);
    if ((u & 0x100) == 0) continue;
    const size_t at = unit(node) & 0x7fffffff;
    if (at >= texts_.size()) return std::nullopt;
    const size_t end = texts_.find('\0', at);
    return texts_.substr(at, end == texts_.npos ? texts_.npos : end - at);
  }
  return std::nullopt;
}

std::string Charsmap::apply(std::string_view text, size_t limit) const {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size() && out.size() <= limit;) {
    const size_t end = cluster_end(text, pos);
    const auto whole = end - pos < kClusterBytes ? replacement(text.substr(pos, end - pos)) : std::nullopt;
    if (whole) {
      out.append(*whole);
      pos = end;
    }
    while (pos < end && out.size() <= limit) {
      const CodePoint c = decode_utf8(text, pos);
      const std::string_view character = text.substr(pos, c.length);
      out.append(replacement(character).value_or(character));
      pos += c.length;
    }
  }
  return out;
}

}  // namespace nwc
