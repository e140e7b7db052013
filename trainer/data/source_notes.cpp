#include "trainer/data/source_notes.h"

#include "trainer/data/utf8.h"

namespace nwc {
namespace {

constexpr size_t kMaxValueBytes = 64u << 10;

std::string key_of(const SourceNote& note) {
  switch (note.kind) {
    case NoteKind::kModelLeftOut: return "left_out.model";
    case NoteKind::kTokenizerLeftOut: return "left_out.tokenizer";
    case NoteKind::kTensorsLeftOut: return "left_out.tensors";
    case NoteKind::kGuessed: return "guessed." + note.subject;
    default: return "repaired." + note.subject;
  }
}

// Names from a source may hold any bytes.
std::string clean(std::string_view text) {
  std::string out;
  while (!text.empty() && out.size() < kMaxValueBytes) {
    const std::string_view before = text;
    if (next_code_point(&text)) {
      out.append(before.substr(0, before.size() - text.size()));
    } else {
      out.push_back('?');
      text.remove_prefix(1);
    }
  }
  return out;
}

}  // namespace

std::string describe(const SourceNote& note) {
  switch (note.kind) {
    case NoteKind::kModelLeftOut: return "model description left out: " + note.text;
    case NoteKind::kTokenizerLeftOut: return "tokenizer left out: " + note.text;
    case NoteKind::kTensorsLeftOut: return "tensors left out: " + note.text;
    default: return note.text;
  }
}

std::string join_notes(const SourceNotes& notes, NoteKind kind) {
  std::string text;
  for (const SourceNote& note : notes) {
    if (note.kind == kind) text += (text.empty() ? "" : "; ") + note.text;
  }
  return text;
}

Metadata to_metadata(const SourceNotes& notes) {
  Metadata entries;
  for (const SourceNote& note : notes) {
    std::string& value = entries[key_of(note)];
    value = clean(value + (value.empty() ? "" : "; ") + note.text);
  }
  return entries;
}

}  // namespace nwc
