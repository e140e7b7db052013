#include "trainer/data/jinja_code.h"

#include <algorithm>
#include <vector>

namespace nwc {
namespace {

constexpr std::string_view kSpace = " \t\r\n\v\f";

bool is_space(char c) { return kSpace.find(c) != std::string_view::npos; }

void add_escaped(char c, std::string* out) {
  switch (c) {
    case '\n': *out += "\\n"; break;
    case '\t': *out += "\\t"; break;
    case '\'': *out += "\\'"; break;
    case '\\': *out += "\\\\"; break;
    default: *out += c;
  }
}

/// The end of a string literal that begins at code[at]: behind its closing quote, or the end of the code.
size_t literal_end(std::string_view code, size_t at) {
  const char quote = code[at++];
  while (at < code.size() && code[at] != quote) at += code[at] == '\\' ? 2 : 1;
  return std::min(code.size(), at + 1);
}

/// Appends the literal code[at, end) with single quotes.
void add_literal(std::string_view code, size_t at, size_t end, std::string* out) {
  const char quote = code[at];
  const size_t last = code[end - 1] == quote && end - at >= 2 ? end - 1 : end;
  *out += '\'';
  for (size_t i = at + 1; i < last; ++i) {
    char c = code[i];
    if (c == '\\' && i + 1 < last) {
      c = code[++i];
      if (c == 'n')
        c = '\n';
      else if (c == 't')
        c = '\t';
      else if (c != '\'' && c != '"' && c != '\\')
        *out += "\\\\";
    }
    add_escaped(c, out);
  }
  *out += '\'';
}

void replace_all(std::string* text, std::string_view from, std::string_view to) {
  std::string out;
  size_t at = 0;
  for (size_t found; (found = text->find(from, at)) != std::string::npos; at = found + from.size())
    out.append(*text, at, found - at).append(to);
  *text = out.append(*text, at);
}

/// The code of a tag without white space outside literals.
std::string squeeze(std::string_view code) {
  std::string out;
  for (size_t i = 0; i < code.size();) {
    if (code[i] == '\'' || code[i] == '"') {
      const size_t end = literal_end(code, i);
      add_literal(code, i, end, &out);
      i = end;
    } else {
      if (!is_space(code[i])) out += code[i];
      ++i;
    }
  }
  for (const char* field : {"role", "content"}) {
    const std::string dotted = std::string(".") + field, bracketed = std::string("['") + field + "']";
    for (const char* owner : {"message", "messages[0]"}) replace_all(&out, owner + dotted, owner + bracketed);
  }
  return out;
}

/// A tag of the template: {{...}}, {%...%} or {#...#}.
struct Tag {
  size_t begin = 0, end = 0;  ///< the whole tag
  char kind = '{';
  bool strips_before = false, strips_behind = false;
  std::string_view code;
};

bool find_tag(std::string_view text, size_t from, Tag* tag) {
  for (size_t at = text.find('{', from); at != std::string_view::npos; at = text.find('{', at + 1)) {
    if (at + 1 >= text.size()) return false;
    const char kind = text[at + 1];
    if (kind != '{' && kind != '%' && kind != '#') continue;
    const std::string_view close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    size_t i = at + 2;
    while (i < text.size() && text.substr(i, 2) != close) {
      const bool literal = kind != '#' && (text[i] == '\'' || text[i] == '"');
      i = literal ? literal_end(text, i) : i + 1;
    }
    if (i >= text.size()) return false;
    *tag = {at, i + 2, kind, false, false, text.substr(at + 2, i - at - 2)};
    if (!tag->code.empty() && (tag->code.front() == '-' || tag->code.front() == '+')) {
      tag->strips_before = tag->code.front() == '-';
      tag->code.remove_prefix(1);
    }
    if (!tag->code.empty() && tag->code.back() == '-') {
      tag->strips_behind = true;
      tag->code.remove_suffix(1);
    }
    return true;
  }
  return false;
}

/// The text between two tags (null: the template's ends) as it is printed.
std::string_view printed(std::string_view between, const Tag* before, const Tag* behind) {
  if (before != nullptr && before->strips_behind) {
    between.remove_prefix(std::min(between.size(), between.find_first_not_of(kSpace)));
  } else if (before != nullptr && before->kind != '{' && between.starts_with('\n')) {
    between.remove_prefix(1);  // trim_blocks
  }
  if (behind != nullptr && behind->strips_before) {
    between = between.substr(0, between.find_last_not_of(kSpace) + 1);
  } else if (behind != nullptr && behind->kind != '{') {  // lstrip_blocks
    const std::string_view kept = between.substr(0, between.find_last_not_of(" \t") + 1);
    if (kept.ends_with('\n') || (kept.empty() && (before == nullptr || before->kind != '{'))) between = kept;
  }
  if (behind == nullptr && between.ends_with('\n')) between.remove_suffix(1);  // keep_trailing_newline is off
  return between;
}

}  // namespace

std::string jinja_code(std::string_view text) {
  std::string out;
  Tag before;
  bool has_before = false;
  size_t at = 0;
  for (Tag tag; find_tag(text, at, &tag); at = tag.end, before = tag, has_before = true) {
    const std::string_view raw = printed(text.substr(at, tag.begin - at), has_before ? &before : nullptr, &tag);
    if (!raw.empty()) {
      out += "{'";
      for (const char c : raw) add_escaped(c, &out);
      out += "'}";
    }
    if (tag.kind == '%') out += "{%" + squeeze(tag.code) + "%}";
    if (tag.kind == '{') out += "{" + squeeze(tag.code) + "}";
  }
  const std::string_view raw = printed(text.substr(at), has_before ? &before : nullptr, nullptr);
  if (!raw.empty()) {
    out += "{'";
    for (const char c : raw) add_escaped(c, &out);
    out += "'}";
  }
  // A statement's end is "%}" and its begin "{%", so that neither is taken for a print's. Literals are left alone.
  std::string merged;
  for (size_t i = 0; i < out.size();) {
    const bool joins =
        out[i] == '}' && i > 0 && out[i - 1] != '%' && i + 2 < out.size() && out[i + 1] == '{' && out[i + 2] != '%';
    if (joins) {
      merged += '+';
      i += 2;
    } else if (out[i] == '\'') {
      const size_t end = literal_end(out, i);
      const bool adjoins = merged.ends_with("'+");
      if (adjoins) merged.resize(merged.size() - 2);
      merged.append(out, adjoins ? i + 1 : i, end - (adjoins ? i + 1 : i));
      i = end;
    } else {
      merged += out[i++];
    }
  }
  return merged;
}

}  // namespace nwc
