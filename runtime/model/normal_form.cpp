#include "runtime/model/normal_form.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "runtime/model/unicode.h"
#include "runtime/model/unicode_tables.h"

namespace nwc {
namespace {

constexpr uint32_t kHangul = 0xac00, kHangulCount = 11172, kLeading = 0x1100, kVowel = 0x1161, kTrailing = 0x11a7;
constexpr uint32_t kVowels = 21, kTrailings = 28;

struct Mapping {
  const char16_t* text = nullptr;
  uint32_t length = 0;  ///< UTF-16 units, 0: none
  uint32_t single = 0;  ///< of a linear run
};

Mapping find_mapping(uint32_t code, bool compatible) {
  const auto* after = std::upper_bound(std::begin(kMappings), std::end(kMappings), code,
                                       [](uint32_t c, const MappingRun& run) { return c < run.first; });
  if (after == std::begin(kMappings)) return {};
  const MappingRun& run = *std::prev(after);
  const uint32_t index = code - run.first;
  if (index >= run.count || (run.compatible != 0 && !compatible)) return {};
  if (run.linear != 0) return {nullptr, 1, run.offset + index};
  return {kMappingText + run.offset + index * run.length, run.length, 0};
}

uint8_t combining_class(uint32_t code) {
  const auto* after = std::upper_bound(std::begin(kCombining), std::end(kCombining), code,
                                       [](uint32_t c, const CombiningRun& run) { return c < run.first; });
  if (after == std::begin(kCombining)) return 0;
  const CombiningRun& run = *std::prev(after);
  return code - run.first < run.count ? run.combining_class : 0;
}

/// The two code points that a composite is made of.
std::pair<uint32_t, uint32_t> parts_of(uint32_t composite) {
  const Mapping mapping = find_mapping(composite, false);
  uint32_t codes[2] = {0, 0};
  for (uint32_t i = 0, n = 0; i < mapping.length && n < 2; ++n) {
    const uint32_t unit = mapping.text[i++];
    const bool pair = unit >= 0xd800 && unit < 0xdc00;
    codes[n] = pair ? 0x10000 + ((unit - 0xd800) << 10) + (mapping.text[i++] - 0xdc00u) : unit;
  }
  return {codes[0], codes[1]};
}

/// What two code points compose to, or 0.
uint32_t compose(uint32_t first, uint32_t second) {
  if (first - kLeading < 19 && second - kVowel < kVowels) {
    return kHangul + ((first - kLeading) * kVowels + (second - kVowel)) * kTrailings;
  }
  if (first - kHangul < kHangulCount && (first - kHangul) % kTrailings == 0 &&
      second - kTrailing - 1 < kTrailings - 1) {
    return first + (second - kTrailing);
  }
  const std::pair<uint32_t, uint32_t> wanted(first, second);
  const auto* found = std::lower_bound(std::begin(kComposites), std::end(kComposites), wanted,
                                       [](uint32_t code, const auto& pair) { return parts_of(code) < pair; });
  return found != std::end(kComposites) && parts_of(*found) == wanted ? *found : 0;
}

/// Collects characters up to one that neither combines nor is moved across, then writes them out.
class Segment {
 public:
  Segment(NormalForm form, std::string* out)
      : out_(out),
        compatible_(form == NormalForm::kNfkc || form == NormalForm::kNfkd),
        composes_(form == NormalForm::kNfc || form == NormalForm::kNfkc) {}

  void add(uint32_t code) {
    if (code - kHangul < kHangulCount) {
      const uint32_t index = code - kHangul;
      push(kLeading + index / (kVowels * kTrailings));
      push(kVowel + index / kTrailings % kVowels);
      if (index % kTrailings != 0) push(kTrailing + index % kTrailings);
      return;
    }
    const Mapping mapping = code < 0xa0 ? Mapping{} : find_mapping(code, compatible_);
    if (mapping.length == 0) return push(code);
    if (mapping.text == nullptr) return add(mapping.single);
    // Mappings are one step deep and not circular: a few levels.
    for (uint32_t i = 0; i < mapping.length;) {
      const uint32_t unit = mapping.text[i++];
      const bool pair = unit >= 0xd800 && unit < 0xdc00;
      add(pair ? 0x10000 + ((unit - 0xd800) << 10) + (mapping.text[i++] - 0xdc00u) : unit);
    }
  }

  void flush() {
    reorder();
    if (composes_) compose_all();
    for (const Entry& entry : entries_) append_utf8(entry.code, out_);
    entries_.clear();
  }

 private:
  struct Entry {
    uint32_t code;
    uint8_t combining_class;
  };

  void push(uint32_t code) {
    // All others begin a segment: only marks, vowels and trailing consonants of Hangul, and Kirat Rai's vowels are the
    // second in a composition.
    const bool joins = (char_bits(code) & kMarkBits) != 0 || code - 0x1160 < 0xa0 || code - 0x16d63 < 8;
    if (!joins && !entries_.empty()) flush();
    entries_.push_back({code, code < 0x300 ? uint8_t{0} : nwc::combining_class(code)});
  }

  void reorder() {
    for (auto begin = entries_.begin(); begin != entries_.end();) {
      if (begin->combining_class == 0) {
        ++begin;
        continue;
      }
      const auto end = std::find_if(begin, entries_.end(), [](const Entry& e) { return e.combining_class == 0; });
      std::stable_sort(begin, end,
                       [](const Entry& a, const Entry& b) { return a.combining_class < b.combining_class; });
      begin = end;
    }
  }

  void compose_all() {
    size_t starter = entries_.size(), kept = 0;
    uint32_t last_class = 0;  // of what stands between the starter and the entry
    for (size_t i = 0; i < entries_.size(); ++i) {
      const Entry entry = entries_[i];
      const bool adjacent = starter < kept && starter + 1 == kept;
      if (starter < kept && (adjacent || (last_class < entry.combining_class))) {
        if (const uint32_t both = nwc::compose(entries_[starter].code, entry.code); both != 0) {
          entries_[starter].code = both;
          continue;
        }
      }
      if (entry.combining_class == 0) starter = kept;
      last_class = entry.combining_class;
      entries_[kept++] = entry;
    }
    entries_.resize(kept);
  }

  std::vector<Entry> entries_;
  std::string* out_;
  bool compatible_, composes_;
};

}  // namespace

std::string to_normal_form(std::string_view text, NormalForm form) {
  std::string out;
  out.reserve(text.size());
  Segment segment(form, &out);
  for (size_t pos = 0; pos < text.size();) {
    // Of a run of ASCII only the last character may be composed with what follows.
    size_t end = pos;
    while (end < text.size() && static_cast<uint8_t>(text[end]) < 0x80) ++end;
    if (end - pos > 1) {
      segment.flush();
      out.append(text.substr(pos, end - pos - 1));
      pos = end - 1;
    }
    const CodePoint c = decode_utf8(text, pos);
    if (c.value == kInvalidCodePoint) {
      segment.flush();
      out.push_back(text[pos]);
    } else {
      segment.add(c.value);
    }
    pos += c.length;
  }
  segment.flush();
  return out;
}

}  // namespace nwc
