#include "runtime/model/normalizer.h"

#include "runtime/base/str_cat.h"
#include "runtime/model/normal_form.h"
#include "runtime/model/unicode.h"

namespace nwc {
namespace {

/// Characters that `drop(code)` wants are left out.
template <typename Drop>
std::string without(std::string_view text, const Drop& drop) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = decode_utf8(text, pos);
    if (!drop(c.value)) out.append(text.substr(pos, c.length));
    pos += c.length;
  }
  return out;
}

std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = decode_utf8(text, pos);
    if (c.value == kInvalidCodePoint) {
      out.push_back(text[pos]);
    } else {
      append_lower_case(c.value, &out);
    }
    pos += c.length;
  }
  return out;
}

/// Controls and the replacement character go, white space of any kind becomes a space.
std::string clean_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = decode_utf8(text, pos);
    if (is_white_space(c.value) && (c.value >= 0x20 || c.value == '\t' || c.value == '\n' || c.value == '\r') &&
        c.value != 0x85) {
      out.push_back(' ');
    } else if (c.value == kInvalidCodePoint) {
      out.push_back(text[pos]);
    } else {
      const GeneralClass kind = general_class(c.value);
      const bool dropped = kind == GeneralClass::kControl || kind == GeneralClass::kFormat ||
                           kind == GeneralClass::kPrivate || c.value == 0xfffd;
      if (!dropped) out.append(text.substr(pos, c.length));
    }
    pos += c.length;
  }
  return out;
}

// The blocks that BERT calls Chinese, one of them as tokenizers has it, with 2B920 in place of 2B820.
bool is_chinese(uint32_t c) {
  return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
         (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
         (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

std::string pad_chinese(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = decode_utf8(text, pos);
    const bool chinese = is_chinese(c.value);
    if (chinese) out.push_back(' ');
    out.append(text.substr(pos, c.length));
    if (chinese) out.push_back(' ');
    pos += c.length;
  }
  return out;
}

std::string_view strip_left(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    const CodePoint c = decode_utf8(text, pos);
    if (!is_white_space(c.value)) break;
    pos += c.length;
  }
  return text.substr(pos);
}

std::string_view strip_right(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t pos = previous_utf8(text, end);
    if (!is_white_space(decode_utf8(text, pos).value)) break;
    end = pos;
  }
  return text.substr(0, end);
}

/// Stops above `limit` bytes.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to, size_t limit) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0;;) {
    const size_t found = text.find(from, pos);
    out.append(text.substr(pos, found == text.npos ? found : found - pos));
    if (found == text.npos || out.size() > limit) return out;
    out.append(to);
    pos = found + from.size();
  }
}

std::string collapse_spaces(std::string_view text, std::string_view to, size_t limit) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size() && out.size() <= limit;) {
    size_t end = pos;
    while (end < text.size() && text[end] == ' ') ++end;
    if (end - pos >= 2) {
      out.append(to);
      pos = end;
    } else {
      out.push_back(text[pos++]);
    }
  }
  return out;
}

}  // namespace

Result<Normalizer> Normalizer::create(const TokenizerRecord& record) {
  Normalizer normalizer(&record.normalizer);
  if (!record.charsmap.empty()) {
    NWC_ASSIGN_OR_RETURN(normalizer.charsmap_, Charsmap::create(record.charsmap));
  }
  return normalizer;
}

Result<std::string> Normalizer::apply_step(const NormalizerStep& step, std::string text, size_t limit) const {
  switch (step.op) {
    case NormalizerOp::kNfc: return to_normal_form(text, NormalForm::kNfc);
    case NormalizerOp::kNfd: return to_normal_form(text, NormalForm::kNfd);
    case NormalizerOp::kNfkc: return to_normal_form(text, NormalForm::kNfkc);
    case NormalizerOp::kNfkd: return to_normal_form(text, NormalForm::kNfkd);
    case NormalizerOp::kLowercase: return lower_case(text);
    case NormalizerOp::kDropMarks: return without(text, [](uint32_t c) { return (char_bits(c) & kMarkBits) != 0; });
    case NormalizerOp::kDropNonSpacing:
      return without(text, [](uint32_t c) { return (char_bits(c) & kNonSpacingBit) != 0; });
    case NormalizerOp::kCleanText: return clean_text(text);
    case NormalizerOp::kPadChinese: return pad_chinese(text);
    case NormalizerOp::kReplace: return replace_all(text, step.from, step.to, limit);
    case NormalizerOp::kPrepend: return text.empty() ? text : step.to + text;
    case NormalizerOp::kStripLeft: return std::string(strip_left(text));
    case NormalizerOp::kStripRight: return std::string(strip_right(text));
    case NormalizerOp::kCollapseSpaces: return collapse_spaces(text, step.to, limit);
    case NormalizerOp::kCharsmap: return charsmap_ ? charsmap_->apply(text, limit) : text;
  }
  return text;
}

Result<std::string> Normalizer::apply(std::string_view text) const {
  constexpr size_t kMost = size_t{1} << 31;
  const size_t limit = std::min(16 * std::min(text.size(), kMost) + (size_t{1} << 16), kMost - 1);
  std::string normal(text);
  for (const NormalizerStep& step : *steps_) {
    NWC_ASSIGN_OR_RETURN(normal, apply_step(step, std::move(normal), limit));
    if (normal.size() > limit) {
      return limit_error(str_cat("the tokenizer's normalizer makes more than ", limit, " bytes of ", text.size()));
    }
  }
  return normal;
}

}  // namespace nwc
