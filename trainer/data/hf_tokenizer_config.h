// tokenizer_config.json: whether a text begins with BOS and ends with EOS.
#pragma once

#include "runtime/format/tokenizer_record.h"
#include "trainer/data/source_notes.h"

namespace nwc {

/// Makes the record do what "add_bos_token" and "add_eos_token" say, where they are there: programs that make the
/// tokens around a text themselves follow them. *notes receives what tokenizer.json does otherwise, and what cannot be
/// followed. Never fails: a file that is damaged is ignored, with a note.
void apply_tokenizer_config(Bytes json, TokenizerRecord* record, SourceNotes* notes);

}  // namespace nwc
