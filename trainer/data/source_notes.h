// Notes of a model source say what it has left out, guessed or repaired. The command line prints every note as a
// warning, and a .nwc file keeps them in PROVENANCE (doc/format.md, section 9). A user of the file learns from them why
// something is missing.
#pragma once

#include <string>
#include <vector>

#include "runtime/format/container.h"

namespace nwc {

enum class NoteKind {
  kModelLeftOut,      ///< ModelSource::model() is empty: the weights can be coded, but no session can run them
  kTokenizerLeftOut,  ///< ModelSource::tokenizer() is empty
  kTensorsLeftOut,    ///< tensors of the source that ModelSource::tensors() does not list
  kGuessed,           ///< the source does not say something, and the usual value was taken
  kRepaired,          ///< something that the source says is impossible or not followed: it was ignored or replaced
};

/// Example: {kGuessed, "pre_tokenizer", "tokenizer.ggml.pre is missing; GPT-2's rules are assumed"}.
struct SourceNote {
  NoteKind kind;
  /// kGuessed and kRepaired: what it is about, in lower case and with underscores; it becomes part of the key in
  /// PROVENANCE ("guessed.pre_tokenizer"). Empty for the other kinds.
  std::string subject;
  /// The reason: one sentence or several, without the last full stop; names the file, the key and the value.
  std::string text;
};
using SourceNotes = std::vector<SourceNote>;

/// The note as one line for a person: "tokenizer left out: ...".
std::string describe(const SourceNote& note);

/// The texts of all notes of this kind, joined by "; "; empty if there is none.
std::string join_notes(const SourceNotes& notes, NoteKind kind);

/// The entries that a file keeps in PROVENANCE: left_out.model, left_out.tokenizer, left_out.tensors, guessed.SUBJECT,
/// repaired.SUBJECT. Values are valid UTF-8 (other bytes become '?') and have at most 64 KiB.
Metadata to_metadata(const SourceNotes& notes);

}  // namespace nwc
