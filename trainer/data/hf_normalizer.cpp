#include "trainer/data/hf_normalizer.h"

#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "trainer/data/hf_config_keys.h"
#include "trainer/data/hf_pipeline.h"
#include "trainer/data/json_checked.h"
#include "trainer/data/utf8.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kVisibleSpace = "\xe2\x96\x81";  // U+2581
constexpr size_t kMaxCharsmapText = 8u << 20;

std::string where(const Json& part) { return "normalizer of type \"" + hf_type_of(part) + "\""; }

std::optional<std::vector<uint8_t>> decode_base64(std::string_view text) {
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  std::vector<uint8_t> bytes;
  uint32_t bits = 0, count = 0;
  for (const char c : text) {
    uint32_t value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = static_cast<uint32_t>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      value = static_cast<uint32_t>(c - 'a') + 26;
    } else if (c >= '0' && c <= '9') {
      value = static_cast<uint32_t>(c - '0') + 52;
    } else if (c == '+' || c == '/') {
      value = c == '+' ? 62 : 63;
    } else {
      return std::nullopt;
    }
    bits = bits << 6 | value;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<uint8_t>(bits >> count));
  }
  return bytes;
}

struct PlainStep {
  const char* type;
  NormalizerOp op;
};
constexpr PlainStep kPlainSteps[] = {{"NFC", NormalizerOp::kNfc},
                                     {"NFD", NormalizerOp::kNfd},
                                     {"NFKC", NormalizerOp::kNfkc},
                                     {"NFKD", NormalizerOp::kNfkd},
                                     {"Lowercase", NormalizerOp::kLowercase},
                                     {"StripAccents", NormalizerOp::kDropMarks}};

// What a step puts into the text, where U+2581 is stored as a space.
std::string replacement(const std::string& text, const HfNormalizer& result) {
  return result.shows_spaces ? undo_visible_space(text) : text;
}

Status add_replace(const Json& part, HfNormalizer* result) {
  NWC_TRY(refuse_other_keys(part, where(part), {"type", "pattern", "content"}));
  const Json* pattern = find_field(part, "pattern");
  std::string content, text, regex;
  NWC_TRY(get_field(part, "content", &content));
  if (pattern == nullptr) return corrupt(where(part) + " has no pattern");
  NWC_TRY(get_field(*pattern, "String", &text));
  NWC_TRY(get_field(*pattern, "Regex", &regex));
  if (text == " " && content == kVisibleSpace) {
    result->shows_spaces = true;
    return {};
  }
  // Behind the visible spaces a space in a pattern would find none.
  const bool has_space = text.find(' ') != text.npos || regex.find(' ') != regex.npos;
  if (result->shows_spaces && has_space) return unsupported_hf_part("normalizer", part);
  if (!text.empty() && regex.empty()) {
    result->steps.push_back({NormalizerOp::kReplace, replacement(text, *result), replacement(content, *result)});
    return {};
  }
  if (regex != " {2,}") return unsupported_hf_part("normalizer", part);
  result->steps.push_back({NormalizerOp::kCollapseSpaces, "", undo_visible_space(content)});
  return {};
}

Status add_strip(const Json& part, HfNormalizer* result) {
  NWC_TRY(refuse_other_keys(part, where(part), {"type", "strip_left", "strip_right"}));
  if (result->shows_spaces) return unsupported_hf_part("normalizer", part);
  bool left = true, right = true;
  NWC_TRY(get_field(part, "strip_left", &left));
  NWC_TRY(get_field(part, "strip_right", &right));
  if (left) result->steps.push_back({NormalizerOp::kStripLeft});
  if (right) result->steps.push_back({NormalizerOp::kStripRight});
  return {};
}

Status add_bert(const Json& part, HfNormalizer* result) {
  NWC_TRY(refuse_other_keys(part, where(part),
                            {"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}));
  bool clean = true, chinese = true, lowercase = true;
  NWC_TRY(get_field(part, "clean_text", &clean));
  NWC_TRY(get_field(part, "handle_chinese_chars", &chinese));
  NWC_TRY(get_field(part, "lowercase", &lowercase));
  bool strip = lowercase;
  NWC_TRY(get_field(part, "strip_accents", &strip));
  if (clean) result->steps.push_back({NormalizerOp::kCleanText});
  if (chinese) result->steps.push_back({NormalizerOp::kPadChinese});
  if (strip) {
    result->steps.push_back({NormalizerOp::kNfd});
    result->steps.push_back({NormalizerOp::kDropNonSpacing});
  }
  if (lowercase) result->steps.push_back({NormalizerOp::kLowercase});
  return {};
}

Status add_charsmap(const Json& part, HfNormalizer* result) {
  NWC_TRY(refuse_other_keys(part, where(part), {"type", "precompiled_charsmap"}));
  std::string text;
  NWC_TRY(get_field(part, "precompiled_charsmap", &text));
  if (text.empty()) return {};  // nothing to do
  if (text.size() > kMaxCharsmapText) return limit_error(where(part) + " has more than 8 MiB");
  if (!result->charsmap.empty()) return unsupported(where(part) + " occurs twice");
  std::optional<std::vector<uint8_t>> bytes = decode_base64(text);
  if (!bytes || bytes->empty()) return corrupt(where(part) + ": precompiled_charsmap is not base64");
  result->charsmap = std::move(*bytes);
  result->steps.push_back({NormalizerOp::kCharsmap});
  return {};
}

Status add_prepend(const Json& part, HfNormalizer* result) {
  NWC_TRY(refuse_other_keys(part, where(part), {"type", "prepend"}));
  std::string text;
  NWC_TRY(get_field(part, "prepend", &text));
  if (text == kVisibleSpace && !result->prepends_space) {
    result->prepends_space = true;
  } else {
    result->steps.push_back({NormalizerOp::kPrepend, "", replacement(text, *result)});
  }
  return {};
}

}  // namespace

std::string hf_type_of(const Json& part) {
  const Json* type = find_field(part, "type");
  return type != nullptr && type->is_string() ? type->get<std::string>() : "";
}

Status unsupported_hf_part(const char* place, const Json& part) {
  return unsupported(std::string(place) + " of type \"" + hf_type_of(part) +
                     "\", or in this place: " + short_json(part));
}

Result<HfNormalizer> parse_hf_normalizer(std::span<const Json* const> parts) {
  HfNormalizer result;
  for (const Json* part : parts) {
    const std::string type = hf_type_of(*part);
    const PlainStep* plain = nullptr;
    for (const PlainStep& step : kPlainSteps) {
      if (type == step.type) plain = &step;
    }
    // A step behind the prepended space would see it, and one that strips would take it away.
    if (result.prepends_space && type == "Strip") return unsupported_hf_part("normalizer", *part);
    if (plain != nullptr) {
      NWC_TRY(refuse_other_keys(*part, where(*part), {"type"}));
      result.steps.push_back({plain->op});
    } else if (type == "Replace") {
      NWC_TRY(add_replace(*part, &result));
    } else if (type == "Prepend") {
      NWC_TRY(add_prepend(*part, &result));
    } else if (type == "Strip") {
      NWC_TRY(add_strip(*part, &result));
    } else if (type == "BertNormalizer") {
      NWC_TRY(add_bert(*part, &result));
    } else if (type == "Precompiled") {
      NWC_TRY(add_charsmap(*part, &result));
    } else {
      return unsupported_hf_part("normalizer", *part);
    }
  }
  return result;
}

}  // namespace nwc
