#include "trainer/data/hf_pre_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/pre_tokenizer.h"
#include "runtime/model/unicode.h"
#include "trainer/data/hf_config_keys.h"
#include "trainer/data/hf_normalizer.h"
#include "trainer/data/hf_pipeline.h"
#include "trainer/data/json_checked.h"
#include "trainer/data/utf8.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

// What one part of a pre-tokenizer does. The names follow runtime/model/pre_tokenizer_rows.cpp.
enum class Split {
  kGpt2,
  kDigit,
  kDigits,
  kThreeDigits,
  kExactlyThree,
  kLlama3,
  kQwen2,
  kQwen35,
  kManyDigits,
  kO200k,
  kTekken,
  kCl100k,
  kBailing,
  kSeedCoder,
  kBloom,
  kNewlines,
  kCasedLetters,
  kMostPunctuation,
  kSpacesAtEnd,
  kAsian,
  kLetters,
  kPunctuation,
  kChineseJapanese,
  kDeepSeekV3,
  kPunctuationRuns,
};

struct KnownPattern {
  Split split;
  std::string_view regex;
  bool covers_text;  ///< every character is part of a match
};

constexpr KnownPattern kPatterns[] = {
    {Split::kGpt2, R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", true},
    {Split::kLlama3,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {Split::kQwen2,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {Split::kManyDigits,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {Split::kQwen35,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {Split::kO200k,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {Split::kTekken,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
     R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {Split::kCl100k,
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
     true},
    {Split::kBailing,
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
     true},
    {Split::kSeedCoder,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {Split::kDeepSeekV3,
     R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     false},
    {Split::kBloom, " ?[^(\\s|[.,!?\xe2\x80\xa6\xe3\x80\x82\xef\xbc\x8c\xe3\x80\x81\xe0\xa5\xa4\xdb\x94\xd8\x8c])]+",
     false},
    {Split::kThreeDigits, R"(\p{N}{1,3})", false},
    {Split::kDigit, R"(\p{N})", false},
    {Split::kExactlyThree, "[0-9][0-9][0-9]", false},
    {Split::kNewlines, R"([\r\n])", false},
    {Split::kSpacesAtEnd, R"(\s+$)", false},
    {Split::kLetters, R"(\s?\p{L}+)", false},
    {Split::kPunctuation, R"(\s?\p{P}+)", false},
};

// Patterns of one class that is written out; it is compared by what it holds.
struct KnownClass {
  Split split;
  bool space_in_front;  ///< \s?
  RangeSet ranges;
};
constexpr KnownClass kClasses[] = {{Split::kCasedLetters, true, RangeSet::kCasedLetters},
                                   {Split::kMostPunctuation, true, RangeSet::kMostPunctuation},
                                   {Split::kAsian, false, RangeSet::kAsianLetters},
                                   {Split::kChineseJapanese, false, RangeSet::kChineseAndKana}};

struct Row {
  PreTokenizer row;
  std::vector<Split> before;       ///< ByteLevel
  std::vector<Split> behind = {};  ///< ByteLevel, where characters are those of its alphabet
  bool has_pattern = false;        ///< ByteLevel's own, use_regex
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {PreTokenizer::kGpt2, {}, {}, true},
      {PreTokenizer::kGpt2, {Split::kGpt2}},
      {PreTokenizer::kSmolLm2, {Split::kDigit}, {}, true},
      {PreTokenizer::kSmolLm2, {Split::kDigit, Split::kGpt2}},
      {PreTokenizer::kLlama3, {Split::kLlama3}},
      {PreTokenizer::kQwen2, {Split::kQwen2}},
      {PreTokenizer::kQwen35, {Split::kQwen35}},
      {PreTokenizer::kO200k, {Split::kO200k}},
      {PreTokenizer::kTekken, {Split::kTekken}},
      {PreTokenizer::kDeepSeekLlm,
       {Split::kNewlines, Split::kCasedLetters, Split::kMostPunctuation, Split::kSpacesAtEnd, Split::kAsian,
        Split::kDigit}},
      {PreTokenizer::kDeepSeekCoder,
       {Split::kNewlines, Split::kLetters, Split::kPunctuation, Split::kAsian, Split::kDigit}},
      {PreTokenizer::kDeepSeekV3, {Split::kThreeDigits, Split::kChineseJapanese, Split::kDeepSeekV3}},
      {PreTokenizer::kFalcon, {Split::kPunctuationRuns}, {Split::kDigits, Split::kExactlyThree}, true},
      {PreTokenizer::kCl100k, {Split::kCl100k}},
      {PreTokenizer::kBailing, {Split::kBailing}},
      {PreTokenizer::kSeedCoder, {Split::kSeedCoder}},
      {PreTokenizer::kBloom, {Split::kBloom}},
      {PreTokenizer::kViking, {Split::kBloom, Split::kDigit}},
      {PreTokenizer::kMiniCpm5, {Split::kThreeDigits, Split::kManyDigits}},
  };
  return table;
}

std::string name_of(const Json& part) { return "pre_tokenizer of type \"" + hf_type_of(part) + "\""; }

// Line ends may be written out, and escaped.
std::string escape_line_ends(std::string_view regex) {
  std::string text;
  for (const char c : regex) {
    if (c == '\r' || c == '\n') {
      text += c == '\r' ? "\\r" : "\\n";
    } else {
      text += c;
    }
  }
  return text;
}

// "[a-cx]+" as sorted ranges that do not touch; nothing where it has escapes or is another thing.
std::vector<CodeRange> parse_class(std::string_view text) {
  if (text.size() < 4 || text.front() != '[' || text.substr(text.size() - 2) != "]+") return {};
  text = text.substr(1, text.size() - 3);
  std::vector<CodeRange> ranges;
  while (!text.empty()) {
    const std::optional<uint32_t> first = next_code_point(&text);
    if (!first || *first == '\\' || *first == '[' || *first == ']' || *first == '^') return {};
    uint32_t last = *first;
    if (text.size() >= 2 && text[0] == '-') {
      text.remove_prefix(1);
      const std::optional<uint32_t> end = next_code_point(&text);
      if (!end || *end < *first) return {};
      last = *end;
    }
    ranges.push_back({*first, last});
  }
  std::sort(ranges.begin(), ranges.end(), [](const CodeRange& a, const CodeRange& b) { return a.first < b.first; });
  std::vector<CodeRange> merged;
  for (const CodeRange& range : ranges) {
    if (!merged.empty() && range.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

bool same_ranges(std::span<const CodeRange> a, std::span<const CodeRange> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const CodeRange& x, const CodeRange& y) { return x.first == y.first && x.last == y.last; });
}

std::string class_text(const KnownClass& known) {
  std::string text = known.space_in_front ? "\\s?[" : "[";
  for (const CodeRange& range : code_ranges(known.ranges)) {
    append_utf8(range.first, &text);
    if (range.last == range.first) continue;
    text += '-';
    append_utf8(range.last, &text);
  }
  return text + "]+";
}

Result<Split> parse_regex(const Json& part) {
  NWC_TRY(refuse_other_keys(part, name_of(part), {"type", "pattern", "behavior", "invert"}));
  bool invert = false;
  std::string behavior;
  NWC_TRY(get_field(part, "invert", &invert));
  NWC_TRY(get_field(part, "behavior", &behavior));
  const Json* pattern = find_field(part, "pattern");
  const Json* regex = pattern == nullptr ? nullptr : find_field(*pattern, "Regex");
  if (regex == nullptr || !regex->is_string()) return unsupported_hf_part("pre_tokenizer", part);
  const std::string text = escape_line_ends(regex->get_ref<const std::string&>());
  const bool isolates = behavior == "Isolated" && !invert;
  // To keep the matches alone is the same where there is nothing else.
  const bool keeps_matches = behavior == "Removed" && invert;
  for (const KnownPattern& known : kPatterns) {
    if (text == known.regex && (isolates || (keeps_matches && known.covers_text))) return known.split;
  }
  const bool has_space = text.rfind("\\s?", 0) == 0;
  const std::vector<CodeRange> ranges = parse_class(std::string_view(text).substr(has_space ? 3 : 0));
  for (const KnownClass& known : kClasses) {
    const bool same = known.space_in_front == has_space && same_ranges(ranges, code_ranges(known.ranges));
    if (same && isolates) return known.split;
  }
  constexpr size_t kMaxShown = 400;
  return unsupported("pre_tokenizer of type \"Split\" (" + short_json(behavior) + (invert ? ", inverted" : "") +
                     ") by an unknown regular expression: " +
                     regex->dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, kMaxShown));
}

Result<Split> parse_split(const Json& part) {
  const std::string type = hf_type_of(part);
  if (type == "Split") return parse_regex(part);
  if (type == "Digits") {
    NWC_TRY(refuse_other_keys(part, name_of(part), {"type", "individual_digits"}));
    bool individual = false;
    NWC_TRY(get_field(part, "individual_digits", &individual));
    return individual ? Split::kDigit : Split::kDigits;
  }
  if (type == "Punctuation") {
    NWC_TRY(refuse_other_keys(part, name_of(part), {"type", "behavior"}));
    std::string behavior = "Isolated";
    NWC_TRY(get_field(part, "behavior", &behavior));
    if (behavior == "Contiguous") return Split::kPunctuationRuns;
  }
  return unsupported_hf_part("pre_tokenizer", part);
}

Json split_json(Split split) {
  if (split == Split::kDigit || split == Split::kDigits) {
    return {{"type", "Digits"}, {"individual_digits", split == Split::kDigit}};
  }
  if (split == Split::kPunctuationRuns) return {{"type", "Punctuation"}, {"behavior", "Contiguous"}};
  std::string regex;
  for (const KnownPattern& known : kPatterns) {
    if (known.split == split) regex = known.regex;
  }
  for (const KnownClass& known : kClasses) {
    if (known.split == split) regex = class_text(known);
  }
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
}

}  // namespace

Result<HfByteLevelSplit> parse_hf_splits(std::span<const Json* const> parts) {
  HfByteLevelSplit result;
  Row found{};
  bool has_byte_level = false;
  for (const Json* part : parts) {
    if (hf_type_of(*part) != "ByteLevel") {
      NWC_ASSIGN_OR_RETURN(const Split split, parse_split(*part));
      (has_byte_level ? found.behind : found.before).push_back(split);
      continue;
    }
    if (has_byte_level) return unsupported_hf_part("pre_tokenizer", *part);
    has_byte_level = true;
    NWC_TRY(refuse_other_keys(*part, name_of(*part), {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    result.add_prefix_space = found.has_pattern = true;  // both defaults
    NWC_TRY(get_field(*part, "add_prefix_space", &result.add_prefix_space));
    NWC_TRY(get_field(*part, "use_regex", &found.has_pattern));
  }
  for (const Row& row : rows()) {
    if (row.before != found.before || row.behind != found.behind || row.has_pattern != found.has_pattern) continue;
    result.row = row.row;
    // The space would stand in front of every piece.
    if (result.add_prefix_space && !found.before.empty()) {
      return unsupported("pre_tokenizer: add_prefix_space together with a split before it");
    }
    return result;
  }
  if (found.before.empty() && !found.has_pattern) return unsupported("pre_tokenizer: ByteLevel without a pattern");
  Json list = Json::array();
  for (const Json* part : parts) list.push_back(*part);
  return unsupported("pre_tokenizer: these parts in this order: " + short_json(list));
}

Result<Json> make_hf_splits(PreTokenizer row, bool add_prefix_space) {
  for (const Row& known : rows()) {
    if (known.row != row) continue;
    Json parts = Json::array();
    for (const Split split : known.before) parts.push_back(split_json(split));
    parts.push_back({{"type", "ByteLevel"},
                     {"add_prefix_space", add_prefix_space},
                     {"trim_offsets", true},
                     {"use_regex", known.has_pattern}});
    for (const Split split : known.behind) parts.push_back(split_json(split));
    if (parts.size() == 1) return parts[0];
    return Json{{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
  }
  return unsupported("the tokenizer's pre-tokenizer has no form in tokenizer.json");
}

}  // namespace nwc
